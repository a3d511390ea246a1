// `limited-node.mjs <host> <key>`: posthog-node, of a store that is at its rate.
import { gunzipSync } from 'node:zlib'
import { PostHog } from 'posthog-node'
import { crowd, Tries } from '../crowd.mjs'

const [host, key] = process.argv.slice(2)
const tries = new Tries(503)
const watched = async (url, options) => {
  const body = gunzipSync(Buffer.from(await new Response(options.body).arrayBuffer()))
  const numbers = JSON.parse(body).batch.map(({ properties }) => properties.number)
  const began = Date.now()
  const answer = await fetch(url, options)
  tries.add(numbers, { status: answer.status, wait: answer.headers.get('retry-after'), began, ended: Date.now() })
  return answer
}
const client = new PostHog(key, { host: `http://${host}`, fetch: watched, flushAt: 5 })

const leave = await crowd(host, key)
const given = await tries.give((number) => client.capture({ distinctId: 'posthog-20', event: 'patient', properties: { number } }))
await leave()
await client.shutdown()
console.log(JSON.stringify(tries.outcome(given)))
