// `browser.mjs <host> <key>`: @segment/analytics-next in Chromium, with its settings from the collector and without, and as
// Segment's snippet loads it.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, writeKey] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><h1>Mug</h1>
<a id="more" href="/more">More</a> <form id="search" action="/found"><button>Search</button></form>
<script>
  const isLanding = location.pathname === '/landing'
  if (isLanding) window.analytics = Object.assign([], { _writeKey: '${writeKey}', _cdn: 'http://${host}' })
  const bundle = isLanding ? 'standalone.js' : 'index.js'
  document.write('<script src="/node_modules/@segment/analytics-next/dist/umd/' + bundle + '"><' + '/script>')
</script>`
const mug = { product_id: 'mug', name: 'Mug', brand: 'Kiln', category: 'Cups', variant: 'blue', price: 12.5, currency: 'USD' }

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const foreign = []
  const complaints = []
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  page.on('request', (request) => {
    if (![origin, `http://${host}`].some((known) => request.url().startsWith(known))) foreign.push(request.url())
  })
  await page.goto(`${origin}/products/mug?utm_source=newsletter&utm_medium=email`)
  const first = await page.evaluate(async ([host, writeKey, mug]) => {
    const analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey, cdnURL: `http://${host}` })
    const sent = [
      await analytics.page('Product', { wood: 'oak' }),
      await analytics.identify('user-7', { plan: 'gold' }),
      await analytics.track('Products Searched', { query: 'Mug' }),
      await analytics.track('Product List Viewed', { list_id: 'cups', category: 'Cups', products: [mug] }),
      await analytics.track('Product Clicked', mug),
      await analytics.track('Product Viewed', { ...mug, url: location.href }),
      await analytics.track('Product Added', { ...mug, quantity: 2, cart_id: 'cart-1' }),
      await analytics.track('Product Removed', { ...mug, quantity: 1 }),
      await analytics.track('Cart Viewed', { cart_id: 'cart-1', products: [{ ...mug, quantity: 2 }] }),
      await analytics.track('Coupon Applied', { coupon_id: 'SUMMER', discount: 2 }),
      await analytics.track('Checkout Started', { value: 25, currency: 'USD', products: [{ ...mug, quantity: 2 }] }),
      await analytics.track('Payment Info Entered', { payment_method: 'card', order_id: 'segment-2' }),
      await analytics.track('Order Completed', {
        order_id: 'segment-2', revenue: 25, currency: 'USD', products: [{ ...mug, quantity: 2 }],
      }),
      await analytics.track('Product Reviewed', { product_id: 'mug', rating: 4, review_body: 'fine' }),
    ]
    const user = await analytics.user()
    return { failed: sent.filter((context) => context.failedDelivery()).length, anonymousId: user.anonymousId() }
  }, [host, writeKey, mug])

  // A batch, to an address that is written into the page.
  await page.goto(`${origin}/checkout`)
  const answer = page.waitForResponse((response) => response.url().endsWith('/v1/b') && response.request().method() === 'POST')
  await page.evaluate(([host, writeKey]) => {
    const integrations = {
      'Segment.io': { apiHost: `${host}/v1`, protocol: 'http', deliveryStrategy: { strategy: 'batching', config: { size: 3 } } },
    }
    const cdnSettings = { integrations: { 'Segment.io': { apiKey: writeKey } }, metrics: { sampleRate: 0 } }
    const analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey, cdnSettings }, { integrations })
    analytics.page()
    analytics.track('Batched', { number: 1 })
    analytics.track('Batched', { number: 2 })
  }, [host, writeKey])
  const batched = (await answer).status()

  // What an address tells, and a link and a form that are followed when that was sent: parts that are loaded later.
  const land = async (query) => {
    await page.goto(`${origin}/landing${query}`)
    await page.waitForFunction(() => window.analytics.initialized)
    await page.evaluate(async () => {
      // A busy machine's page waits for longer than half a second.
      analytics.settings.timeout = 60_000
      await analytics.trackLink(document.getElementById('more'), 'More Followed', { place: 'footer' })
      await analytics.trackForm(document.getElementById('search'), 'Form Sent', { term: 'tea' })
    })
  }
  const arrived = (path) => page.waitForURL((url) => url.pathname === path)
  await land('?ajs_event=Landed&ajs_prop_wood=oak')
  await Promise.all([arrived('/more'), page.click('#more')])
  await land('')
  await Promise.all([arrived('/found'), page.click('#search button')])
  const quiet = [...complaints]

  // A key that nobody knows: told once, not asked again.
  await page.goto(`${origin}/closed`)
  const refused = await page.evaluate(async ([host]) => {
    const analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey: 'nobody', cdnURL: `http://${host}` })
    const context = await analytics.track('Refused')
    return String(context.failedDelivery()?.reason)
  }, [host])
  return { ...first, batched, complaints: quiet, refused, foreign }
})
console.log(JSON.stringify(outcome))
