// `limited-node.mjs <host> <key>`: @segment/analytics-node, of a store that is at its rate.
import { Analytics } from '@segment/analytics-node'
import { crowd, Tries, until } from '../crowd.mjs'

const [host, writeKey] = process.argv.slice(2)
const tries = new Tries(429)
const analytics = new Analytics({ writeKey, host: `http://${host}`, flushAt: 5 })
let began
analytics.on('http_request', () => (began = Date.now()))
analytics.on('http_response', ({ status, body, headers }) => {
  const numbers = JSON.parse(body).batch.map(({ properties }) => properties.number)
  tries.add(numbers, { status, wait: headers['retry-after'], began, ended: Date.now() })
})

const leave = await crowd(host, writeKey)
const given = await tries.give((number) => analytics.track({ userId: 'user-21', event: 'Patient', properties: { number } }))
await leave()
await analytics.closeAndFlush()
console.log(JSON.stringify(tries.outcome(given)))
