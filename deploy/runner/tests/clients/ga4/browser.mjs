// `browser.mjs <host> <key>`: @minimal-analytics/ga4 in Chromium, which sends as Google's own tag does.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><body style="height:4000px;margin:0"><a id="out" href="https://elsewhere.example/x">away</a>
<button id="buy" onclick="track({ type: 'add_to_cart', event: { 'ep.item': 'mug', 'epn.value': 12.5, cu: 'USD' } })">Buy</button>
<script>window.minimalAnalytics = {
  trackingId: '${key}', autoTrack: true, defineGlobal: true, analyticsEndpoint: 'http://${host}/g/collect',
}</script>
<script src="/node_modules/@minimal-analytics/ga4/dist/index.js"></script>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const statuses = []
  page.on('response', (response) => response.url().includes('/g/collect') && statuses.push(response.status()))
  const sent = (name) => page.waitForRequest((request) => request.url().includes(`en=${name}`))
  const first = sent('page_view')
  await page.goto(`${origin}/mug?utm_source=newsletter`)
  await first
  await Promise.all([sent('add_to_cart'), page.click('#buy')])
  await Promise.all([sent('scroll'), page.evaluate(() => scrollTo(0, document.body.scrollHeight))])
  const clientId = await page.evaluate(() => localStorage.getItem('clientId'))
  await Promise.all([sent('user_engagement'), page.goto(`${origin}/tea`)])
  return { clientId, statuses }
})
console.log(JSON.stringify(outcome))
