// `node.mjs <base> <key> <what>`: electron-google-analytics4, a client of the Measurement Protocol, against another host.
import Analytics4 from 'electron-google-analytics4'

const [base, key, what] = process.argv.slice(2)
const visitor = (id) => {
  const analytics = new Analytics4('G-MILLRACE', key, `ga4-${id}`, `session-${id}`)
  analytics.baseURL = `${base}/mp`
  return analytics
}
const answers = []
const send = async (analytics, name, params) => {
  analytics.setParams({}).setParams(params)
  try {
    const { status, data } = await analytics.event(name)
    answers.push([status, data])
  } catch (error) {
    answers.push([error.response?.status, 'refused'])
  }
  analytics.customParams = {}
}

if (what === 'quickstart') {
  const analytics = visitor('electron').setUserProperties({ tier: { value: 'gold' } })
  const page = { page_location: 'https://shop.example/mug', page_title: 'Mug', page_referrer: 'https://search.example/' }
  const mug = { item_id: 'mug', item_name: 'Mug', item_brand: 'Kiln', item_category: 'Cups', price: 12.5, quantity: 2 }
  const tea = { item_id: 'tea', item_name: 'Tea', item_variant: 'green', price: 15 }
  await send(analytics, 'page_view', { ...page, engagement_time_msec: 100 })
  await send(analytics, 'add_to_cart', { currency: 'USD', value: 25, items: [mug] })
  await send(analytics, 'purchase', {
    transaction_id: 'ga4-1', currency: 'USD', value: 46, tax: 2.25, shipping: 8, coupon: 'SUMMER', items: [mug, tea],
  })
  await send(analytics, 'refund', { transaction_id: 'ga4-1', currency: 'USD', value: 15, items: [tea] })
  await send(analytics, 'closed', { reason: 'night' })
  // What will never be acceptable is answered like everything else.
  await send(analytics, 'purchase', { value: 1 })
} else {
  await send(visitor('away'), 'closed', {})
}
console.log(JSON.stringify({ answers }))
