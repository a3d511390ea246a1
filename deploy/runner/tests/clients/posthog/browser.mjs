// `browser.mjs <host> <key> <what>`: posthog-js in Chromium, by its quick start, and in the bundle that holds all of it.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, key, what] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><body style="height:4000px;margin:0">
<button id="buy" style="position:absolute;left:100px;top:200px;width:80px;height:40px" onclick="document.title += '!'">Buy</button>
<script>
  const bundle = location.pathname === '/whole' ? 'array.full.js' : 'array.js'
  document.write('<script src="/node_modules/posthog-js/dist/' + bundle + '"><' + '/script>')
</script>`
const settings = { api_host: `http://${host}`, defaults: '2025-11-30' }
const mug = { product_id: 'mug', name: 'Mug', brand: 'Kiln', category: 'Cups', variant: 'blue', price: 12.5, currency: 'USD' }

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const foreign = []
  const statuses = new Set()
  const complaints = []
  page.on('console', (message) => {
    if (message.type() === 'error') complaints.push(message.text())
  })
  page.on('request', (request) => {
    if (![origin, `http://${host}`].some((known) => request.url().startsWith(known))) foreign.push(request.url())
  })
  page.on('response', (response) => {
    const { pathname } = new URL(response.url())
    if (response.url().startsWith(`http://${host}`)) statuses.add(`${pathname} ${response.status()}`)
  })
  const started = async (more) => {
    await page.evaluate(([key, settings, more]) => {
      window.captured = []
      posthog.init(key, { ...settings, ...more })
      posthog.on('eventCaptured', ({ event }) => window.captured.push(event))
    }, [key, settings, more])
  }
  const has = async (name) => page.waitForFunction((name) => window.captured.includes(name), name)

  // What a refused event got, and how many wait to be sent again, as posthog-js says itself with a later event: when a
  // second one has been refused, the answer to the first has been dealt with.
  const refused = async (key) => {
    const answer = () => page.waitForResponse((response) => response.url().includes('/e/') && response.status() !== 200)
    const first = answer()
    await page.goto(`${origin}/closed`)
    await page.evaluate(([key, settings]) => posthog.init(key, { ...settings, request_batching: false }), [key, settings])
    const status = (await first).status()
    await Promise.all([answer(), page.evaluate(() => posthog.capture('again', {}, { send_instantly: true }))])
    const waiting = await page.evaluate(() => posthog.capture('last').properties.$sdk_debug_retry_queue_size)
    return { status, waits: waiting > 0 }
  }

  if (what === 'unavailable') return { refused: await refused(key) }
  await page.goto(`${origin}/mug?utm_source=newsletter`)
  await started({})
  await page.waitForFunction(() => posthog.heatmaps?.isEnabled)
  const device = await page.evaluate((mug) => {
    posthog.capture('Product Viewed', mug)
    posthog.identify('posthog-7', { tier: 'gold' })
    posthog.group('firm', 'kiln', { seats: 7 })
    posthog.capture('purchase', {
      transaction_id: 'posthog-2', value: 25, currency: 'USD', items: [{ item_id: 'mug', item_name: 'Mug', price: 12.5, quantity: 2 }],
    })
    return posthog.get_property('$device_id')
  }, mug)
  for (let click = 0; click < 3; click += 1) await page.mouse.click(140, 220)
  await has('$$heatmap')
  // A page of an application, and the end of both.
  await page.evaluate(() => new Promise((resolve) => {
    addEventListener('scroll', resolve, { once: true })
    scrollTo(0, 1200)
  }))
  await page.evaluate(() => history.pushState({}, '', '/tea'))
  await has('$pageview')
  await page.goto(`${origin}/whole`)
  await started({ capture_exceptions: true, capture_performance: { web_vitals: true } })
  await page.evaluate(() => posthog.captureException(new TypeError('no tea')))
  await has('$exception')
  await page.mouse.click(700, 600)
  return { device, complaints: [...complaints], refused: await refused('nobody'), statuses: [...statuses].sort(), foreign }
})
console.log(JSON.stringify(outcome))
