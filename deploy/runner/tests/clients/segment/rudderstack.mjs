// `rudderstack.mjs <host> <key>`: @rudderstack/analytics-js in Chromium, its requests one by one, and in batches by beacon.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, writeKey] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><h1>Mug</h1>
<script type="module">
  import { RudderAnalytics } from '/node_modules/@rudderstack/analytics-js/dist/npm/modern/bundled/esm/index.mjs'
  const place = location.pathname
  window.analytics = new RudderAnalytics()
  analytics.load(place === '/closed' ? 'nobody' : '${writeKey}', 'http://${host}', {
    configUrl: 'http://${host}', useBeacon: place === '/tea',
  })
  analytics.ready(() => { window.isReady = true })
</script>`
const mug = { product_id: 'mug', name: 'Mug', brand: 'Kiln', category: 'Cups', variant: 'blue', price: 12.5 }

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const foreign = []
  const complaints = []
  const answers = new Set()
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
  })
  let beacons = 0
  page.on('request', (request) => {
    beacons += request.url().startsWith(`http://${host}/beacon/v1/batch?`)
    if (![origin, `http://${host}`].some((known) => request.url().startsWith(known))) foreign.push(request.url())
  })
  page.on('response', (response) => {
    if (!response.url().startsWith(`http://${host}`)) return
    answers.add(`${new URL(response.url()).pathname} ${response.status()}`)
  })
  const open = async (path) => {
    await page.goto(`${origin}${path}`)
    await page.waitForFunction(() => window.isReady)
  }
  const answered = (path) => page.waitForResponse((response) => response.url() === `http://${host}${path}`)

  await open('/products/mug?utm_source=newsletter&utm_medium=email')
  const calls = [
    ['/v1/page', 'page', ['Shop', 'Product', { wood: 'oak' }]],
    ['/v1/identify', 'identify', ['rudder-7', { plan: 'gold', address: { city: 'Bern' } }]],
    ['/v1/track', 'track', ['Order Completed', {
      order_id: 'rudder-1', total: 25, currency: 'USD', products: [{ ...mug, quantity: 2 }],
    }]],
    // Half of an emoji, and a quantity as some countries write it.
    ['/v1/track', 'track', ['Order Completed', {
      order_id: 'rudder-2', total: 40, currency: 'USD', products: [{ ...mug, name: 'x\ud83d', quantity: '1,5' }],
    }]],
  ]
  for (const [path, method, given] of calls) {
    await Promise.all([answered(path), page.evaluate(([method, given]) => analytics[method](...given), [method, given])])
  }
  const visitor = await page.evaluate(() => ({ anonymousId: analytics.getAnonymousId(), sessionId: analytics.getSessionId() }))

  // What a page has not sent when it ends, it leaves to the browser.
  await open('/tea')
  await page.evaluate((mug) => {
    analytics.page()
    analytics.track('Product Added', { ...mug, quantity: 1, currency: 'USD' })
  }, mug)
  await open('/more')
  const quiet = { complaints: [...complaints], answers: [...answers].sort() }

  // A key that nobody knows: told once, and not kept to be sent again.
  const [refusal] = await Promise.all([answered('/v1/track'), open('/closed').then(() => page.evaluate(() => analytics.track('Refused')))])
  await page.waitForFunction(() => {
    const kept = Object.keys(localStorage).filter((name) => /^rudder_nobody\..*\.(queue|inProgress)$/.test(name))
    return kept.every((name) => !localStorage[name].includes('v1/track'))
  })
  return { ...visitor, ...quiet, beacons, refused: refusal.status(), foreign }
})
console.log(JSON.stringify(outcome))
