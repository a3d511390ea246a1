// `node.mjs <collector> <key>`: the quick start of @snowplow/node-tracker, against another collector.
import { buildEcommerceTransaction, buildEcommerceTransactionItem, buildPageView, buildSelfDescribingEvent, buildStructEvent, newTracker } from '@snowplow/node-tracker'

const [endpoint, appId] = process.argv.slice(2)
const answers = []
const tracker = (eventMethod) => newTracker(
  { namespace: 'shop', appId, encodeBase64: eventMethod === 'get' },
  {
    endpoint, eventMethod, bufferSize: 100,
    onRequestSuccess: (events, response) => answers.push([events.length, response.status]),
    onRequestFailure: ({ events, status, willRetry }) => answers.push([events.length, status, willRetry]),
  },
)

const posting = tracker('post')
posting.setUserId('user-31')
posting.setDomainUserId('device-31')
posting.setPlatform('srv')
posting.setTimezone('Europe/Zurich')
posting.setLang('de-CH')
posting.setScreenResolution(1600, 1000)
posting.setIpAddress('203.0.113.7')
posting.setUseragent('Mozilla/5.0 (a visitor)')
posting.track(buildPageView({ pageUrl: 'https://shop.example/sale', pageTitle: 'Sale', referrer: 'https://search.example/' }))
posting.track(buildStructEvent({ category: 'cart', action: 'opened', label: 'top', property: 'colour', value: 2.5 }))
posting.track(buildSelfDescribingEvent({
  event: { schema: 'iglu:com.shop/newsletter_ordered/jsonschema/1-0-0', data: { weekly: true, topics: ['tea', 'mugs'] } },
}), [{ schema: 'iglu:com.shop/experiment/jsonschema/1-0-0', data: { name: 'footer', variant: 'b' } }])
posting.track(buildEcommerceTransaction({
  orderId: 'snowplow-old', total: 20, tax: 1.5, shipping: 3.5, currency: 'usd', city: 'Bern', affiliation: 'shop',
}))
posting.track(buildEcommerceTransactionItem({ orderId: 'snowplow-old', sku: 'mug', name: 'Mug', category: 'Cups', price: 7.5, quantity: 2 }))
await posting.flush()

const getting = tracker('get')
getting.setUserId('user-32')
getting.track(buildStructEvent({ category: 'cart', action: 'closed' }))
await getting.flush()
await new Promise((resolve) => setTimeout(resolve))
console.log(JSON.stringify({ answers }))
