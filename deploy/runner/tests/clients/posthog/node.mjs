// `node.mjs <host> <key> <what>`: the quick start of posthog-node, against another host.
import { PostHog } from 'posthog-node'

const [host, key, what] = process.argv.slice(2)
const statuses = []
const errors = []
const counting = async (url, options) => {
  const answer = await fetch(url, options)
  statuses.push([new URL(url).pathname, answer.status])
  return answer
}
const client = new PostHog(key, { host, fetch: counting, fetchRetryCount: 1, fetchRetryDelay: 50, flushAt: 20 })
client.on('error', (error) => errors.push(error.status ?? String(error)))

const distinctId = 'posthog-19'
if (what === 'quickstart') {
  client.capture({ distinctId, event: 'sign up', properties: { plan: 'gold', seats: 3, $session_id: 'session-19' } })
  client.identify({ distinctId, properties: { tier: 'gold' } })
  client.alias({ distinctId, alias: 'old-19' })
  client.groupIdentify({ groupType: 'firm', groupKey: 'kiln', properties: { seats: 7 } })
  client.capture({
    distinctId, event: 'Order Completed', groups: { firm: 'kiln' },
    properties: {
      order_id: 'posthog-1', total: 46, revenue: 40, tax: 2.25, shipping: 8, discount: 2, coupon: 'SUMMER', currency: 'USD',
      products: [
        { product_id: 'mug', name: 'Mug', brand: 'Kiln', category: 'Cups', variant: 'blue', price: 12.5, quantity: 2 },
        { sku: 'tea', name: 'Tea', price: 15 },
      ],
    },
  })
  client.capture({ distinctId, event: 'Order Refunded', properties: { order_id: 'posthog-1', total: 15, currency: 'USD' } })
  client.captureException(new TypeError('no tea'), distinctId)
  const flag = await client.getFeatureFlag('new-checkout', distinctId, { sendFeatureFlagEvents: false })
  await client.shutdown()
  console.log(JSON.stringify({ statuses, errors, flag: flag ?? null }))
} else {
  client.capture({ distinctId, event: 'closed' })
  await client.flush().catch((error) => errors.push(error.status ?? String(error)))
  console.log(JSON.stringify({ statuses, errors }))
}
process.exit(0)
