// `limited.mjs <host> <key>`: @plausible-analytics/tracker and plausible-tracker in Chromium, of a store that is at its rate.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { answered, once } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const old = '/node_modules/plausible-tracker/build/module/lib'
// The old client was published for bundlers, which find files without their endings.
const html = `<!doctype html><title>Mug</title>
<script type="importmap">{"imports": {"${old}/tracker": "${old}/tracker.js", "${old}/request": "${old}/request.js"}}</script>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  await page.goto(`${origin}/official`)
  await page.evaluate(async ([host, key]) => {
    const official = await import('/node_modules/@plausible-analytics/tracker/plausible.js')
    official.init({ domain: key, endpoint: `http://${host}/api/event`, captureOnLocalhost: true, autoCapturePageviews: false })
    const { default: Plausible } = await import('/node_modules/plausible-tracker/build/module/index.js')
    const old = Plausible({ domain: key, apiHost: `http://${host}`, trackLocalhost: true })
    window.clients = [
      () => new Promise((callback) => official.track('Impatient', { callback })),
      () => new Promise((callback) => old.trackEvent('Impatient', { callback })),
    ]
  }, [host, key])
  const sent = []
  for (const client of [0, 1]) {
    sent.push(await once(host, key, () => answered(page, '/api/event', () => page.evaluate((client) => window.clients[client](), client))))
  }
  return sent
})
console.log(JSON.stringify(outcome))
