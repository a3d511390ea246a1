// `node.mjs <host> <key> <what>`: the quick start of @segment/analytics-node, against another host.
import { Analytics } from '@segment/analytics-node'

const [host, writeKey, what] = process.argv.slice(2)
const analytics = new Analytics({ writeKey, host, flushAt: 20, maxRetries: 1 })
const statuses = []
const errors = []
analytics.on('http_response', ({ status }) => statuses.push(status))
analytics.on('error', ({ reason }) => errors.push(String(reason)))

const page = { url: 'https://shop.example/sale#top', title: 'Sale', referrer: 'https://search.example/', path: '/sale' }
const context = {
  page, locale: 'de-CH', timezone: 'Europe/Zurich', userAgent: 'Mozilla/5.0 (a visitor)', ip: '203.0.113.7',
  campaign: { name: 'Summer sale', source: 'newsletter', medium: 'email' },
}

switch (what) {
  case 'quickstart':
    analytics.identify({ userId: 'user-19', anonymousId: 'anonymous-19', traits: { plan: 'gold', address: { city: 'Bern' } } })
    analytics.track({ userId: 'user-19', event: 'Item Purchased', properties: { product: 'soap', value: 3, nested: { deep: [1] } } })
    analytics.page({ userId: 'user-19', anonymousId: 'anonymous-19', name: 'Sale', category: 'Shop', context, messageId: 'page-1' })
    analytics.page({ userId: 'user-19', name: 'Sale', category: 'Shop', messageId: 'page-2' })
    analytics.screen({ userId: 'user-19', name: 'Home' })
    analytics.group({ userId: 'user-19', groupId: 'group-5', traits: { seats: 7 } })
    analytics.alias({ userId: 'user-19', previousId: 'old-19' })
    analytics.track({
      userId: 'user-19', anonymousId: 'anonymous-19', event: 'Order Completed', messageId: 'order-1', context,
      properties: {
        order_id: 'segment-1', total: 52.5, revenue: 40, tax: 3.25, shipping: 4, discount: 2, coupon: 'SUMMER', currency: 'USD',
        affiliation: 'shop',
        products: [
          { product_id: 'mug', sku: 'M-1', name: 'Mug', brand: 'Kiln', category: 'Cups', variant: 'blue', price: 12.5, quantity: 2 },
          { product_id: 'tea', name: 'Tea', price: 15, quantity: 1 },
        ],
      },
    })
    analytics.track({
      userId: 'user-19', anonymousId: 'anonymous-19', event: 'Order Refunded', messageId: 'refund-1',
      properties: { order_id: 'segment-1', total: 12.5, currency: 'USD', products: [{ product_id: 'mug', price: 12.5, quantity: 1 }] },
    })
    // A second refund of the same order, and the first one again, as after an answer that was lost.
    for (const [messageId, total, product_id] of [['refund-2', 15, 'tea'], ['refund-1', 12.5, 'mug']]) {
      analytics.track({
        userId: 'user-19', anonymousId: 'anonymous-19', event: 'Order Refunded', messageId,
        properties: { order_id: 'segment-1', total, currency: 'USD', products: [{ product_id, price: total, quantity: 1 }] },
      })
    }
    break
  case 'one':
    analytics.track({ userId: 'user-20', event: 'Waited' })
    break
  default:
    throw new Error(`no such run: ${what}`)
}
await analytics.closeAndFlush()
console.log(JSON.stringify({ statuses, errors }))
