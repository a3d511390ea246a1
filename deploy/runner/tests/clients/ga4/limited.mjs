// `limited.mjs <host> <key>`: electron-google-analytics4, and @minimal-analytics/ga4 in Chromium, of a store that is at its
// rate.
import { fileURLToPath } from 'node:url'
import Analytics4 from 'electron-google-analytics4'
import { chromium } from 'playwright-core'
import { answered, once } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title>
<script>window.minimalAnalytics = { trackingId: '${key}', defineGlobal: true, analyticsEndpoint: 'http://${host}/g/collect' }</script>
<script src="/node_modules/@minimal-analytics/ga4/dist/index.js"></script>`

const analytics = new Analytics4('G-MILLRACE', key, 'ga4-impatient', 'session-impatient')
analytics.baseURL = `http://${host}/mp`
const server = await once(host, key, async () => {
  const { status } = await analytics.event('impatient').catch(({ response }) => response)
  return status
})
const page = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  await page.goto(`${origin}/mug`)
  return once(host, key, () => answered(page, '/g/collect', () => page.evaluate(() => track({ type: 'impatient' }))))
})
console.log(JSON.stringify([server, page]))
