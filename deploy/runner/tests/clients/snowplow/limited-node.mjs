// `limited-node.mjs <host> <key>`: @snowplow/node-tracker, of a store that is at its rate.
import { buildSelfDescribingEvent, newTracker } from '@snowplow/node-tracker'
import { crowd, pause, Tries, until } from '../crowd.mjs'

const [host, appId] = process.argv.slice(2)
const schema = 'iglu:com.shop/patient/jsonschema/1-0-0'
const tries = new Tries(429)
const customFetch = async (request) => {
  const { data } = await request.clone().json()
  const numbers = data.map(({ ue_px }) => JSON.parse(Buffer.from(ue_px, 'base64url')).data.data.number)
  const began = Date.now()
  const answer = await fetch(request)
  tries.add(numbers, { status: answer.status, wait: answer.headers.get('retry-after'), began, ended: Date.now() })
  return answer
}
const tracker = newTracker({ namespace: 'shop', appId }, { endpoint: `http://${host}`, bufferSize: 5, customFetch })

const leave = await crowd(host, appId)
const given = await tries.give((number) => tracker.track(buildSelfDescribingEvent({ event: { schema, data: { number } } })))
await leave()
// It waits for the next event, or for this.
await until('all events', async () => {
  await pause(tries.wait)
  await tracker.flush()
  return tries.has(given)
})
console.log(JSON.stringify(tries.outcome(given)))
