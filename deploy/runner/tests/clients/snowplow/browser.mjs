// `browser.mjs <collector> <key>`: @snowplow/browser-tracker with its plugins in Chromium.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [collector, appId] = process.argv.slice(2)
const script = (name) => `<script src="/node_modules/@snowplow/${name}/dist/index.umd.min.js"></script>`
const html = `<!doctype html><title>Mug</title><body style="height: 4000px"><h1>Mug</h1>
<a id="out" class="big red" href="https://elsewhere.example/x" target="_blank">Elsewhere</a>
<form id="newsletter"><input name="email" id="email"><button>Order</button></form>
${['browser-tracker', 'browser-plugin-snowplow-ecommerce', 'browser-plugin-link-click-tracking',
    'browser-plugin-form-tracking', 'browser-plugin-error-tracking'].map(script).join('\n')}`

/// The events in requests to the collector, by what became of them.
function requests(page) {
  const answered = []
  page.on('response', (response) => {
    if (response.url().startsWith(`http://${collector}`) && response.request().method() === 'POST') {
      answered.push({ status: response.status(), events: JSON.parse(response.request().postData()).data })
    }
  })
  return answered
}

/// Waits until events of these kinds were accepted; a page ping after the page was scrolled.
async function until(page, answered, kinds) {
  const is = (kind) => (event) => event.e === kind && (kind !== 'pp' || Number(event.pp_may) >= 1600)
  const missing = () => kinds.filter((kind) => !answered.some(({ status, events }) => status === 200 && events.some(is(kind))))
  const deadline = Date.now() + 60_000
  while (missing().length > 0) {
    if (Date.now() > deadline) throw new Error(`not accepted: ${missing()}`)
    await page.waitForTimeout(50)
  }
}

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const answered = requests(page)
  await page.goto(`${origin}/products/mug?utm_source=newsletter`)
  await page.evaluate(([collector, appId]) => {
    document.querySelector('a').onclick = (event) => event.preventDefault()
    window.onsubmit = (event) => event.preventDefault()
    const plugins = [
      snowplowEcommerceAccelerator.SnowplowEcommercePlugin(), snowplowLinkClickTracking.LinkClickTrackingPlugin(),
      snowplowFormTracking.FormTrackingPlugin(), snowplowErrorTracking.ErrorTrackingPlugin(),
    ]
    const sp = snowplowBrowserTracking
    sp.newTracker('sp', `http://${collector}`, { appId, plugins, contexts: { webPage: true, session: true, browser: true } })
    sp.setUserId('user-33')
    sp.enableActivityTracking({ minimumVisitLength: 1, heartbeatDelay: 1 })
    snowplowLinkClickTracking.enableLinkClickTracking({ trackContent: false })
    snowplowFormTracking.enableFormTracking()
    sp.trackPageView()
    sp.trackStructEvent({ category: 'gallery', action: 'turned', label: 'Mug', property: 'left', value: 3 })
    snowplowErrorTracking.trackError({ message: 'no tea', filename: 'shop.js', lineno: 7, colno: 3, error: new TypeError('no tea') })
  }, [collector, appId])
  await page.evaluate(() => window.scrollTo(0, 1600))
  await page.click('#out')
  await page.fill('#email', 'somebody@shop.example')
  await page.click('#newsletter button')
  await page.evaluate(() => {
    const mug = { id: 'mug', name: 'Mug', category: 'Cups', brand: 'Kiln', variant: 'blue', price: 12.5, list_price: 14, currency: 'USD', quantity: 2 }
    const tea = { id: 'tea', price: 15, currency: 'USD' }
    const shop = snowplowEcommerceAccelerator
    shop.setEcommerceUser({ id: 'user-34', email: 'somebody@shop.example' })
    shop.trackProductListView({ name: 'Cups', products: [mug, tea] })
    shop.trackProductListClick({ name: 'Cups', product: mug })
    shop.trackProductView(mug)
    shop.trackPromotionView({ id: 'sale', name: 'Sale', slot: 'top', product_ids: ['mug'] })
    shop.trackPromotionClick({ id: 'sale', name: 'Sale' })
    shop.trackAddToCart({ products: [mug], total_value: 25, currency: 'USD', cart_id: 'cart-1' })
    shop.trackRemoveFromCart({ products: [{ ...mug, quantity: 1 }], total_value: 12.5, currency: 'USD' })
    shop.trackCheckoutStep({ step: 1, account_type: 'guest', shipping_full_address: 'Somewhere 1' })
    shop.trackCheckoutStep({ step: 2, delivery_method: 'express' })
    shop.trackCheckoutStep({ step: 3, payment_method: 'card', coupon_code: 'SUMMER' })
    shop.trackTransaction({
      transaction_id: 'snowplow-1', revenue: 46, tax: 2.25, shipping: 8, discount_code: 'SUMMER', discount_amount: 2,
      currency: 'USD', payment_method: 'card', products: [mug, tea],
    })
    shop.trackRefund({ transaction_id: 'snowplow-1', currency: 'USD', refund_amount: 15, refund_reason: 'cold', products: [tea] })
    shop.trackTransactionError({
      error_code: 'E7', transaction: { transaction_id: 'snowplow-9', revenue: 1, currency: 'USD', payment_method: 'card' },
    })
  })
  await until(page, answered, ['pv', 'se', 'ue', 'pp'])

  // Without a trace: neither cookie nor visitor.
  await page.goto(`${origin}/quiet`)
  const quiet = page.waitForRequest((request) => request.url().includes('/tp2') && request.method() === 'POST')
  await page.evaluate(([collector, appId]) => {
    const sp = snowplowBrowserTracking
    sp.newTracker('quiet', `http://${collector}`, {
      appId, anonymousTracking: { withServerAnonymisation: true }, stateStorageStrategy: 'none', eventMethod: 'post',
    })
    sp.trackPageView({ title: 'Quiet' })
  }, [collector, appId])
  const anonymous = (await (await quiet).allHeaders())['sp-anonymous']

  // A key that nobody knows: told, and not asked again.
  await page.goto(`${origin}/closed`)
  const refused = await page.evaluate((collector) => new Promise((resolve) => {
    const sp = snowplowBrowserTracking
    sp.newTracker('closed', `http://${collector}`, {
      appId: 'nobody', stateStorageStrategy: 'none', onRequestFailure: ({ status, willRetry }) => resolve({ status, willRetry }),
    })
    sp.trackPageView()
  }), collector)
  return { anonymous, refused, statuses: answered.map((request) => request.status) }
})
console.log(JSON.stringify(outcome))
