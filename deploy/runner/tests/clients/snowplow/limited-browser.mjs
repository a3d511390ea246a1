// `limited-browser.mjs <host> <key>`: @snowplow/browser-tracker in Chromium, of a store that is at its rate.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { crowd, pause, Tries, until } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, appId] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><script src="/node_modules/@snowplow/browser-tracker/dist/index.umd.min.js"></script>
<script>snowplowBrowserTracking.newTracker('sp', 'http://${host}', { appId: '${appId}' })</script>`
const isSent = (request) => request.url().endsWith('/tp2') && request.method() === 'POST'

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const tries = new Tries(429)
  tries.watch(page, (request) => {
    if (!isSent(request)) return []
    return request.postDataJSON().data.map(({ ue_pr }) => ue_pr && JSON.parse(ue_pr).data.data.number)
  })
  await page.goto(`${origin}/mug`)
  const leave = await crowd(host, appId)
  const given = await tries.give((number) => page.evaluate((number) => snowplowBrowserTracking.trackSelfDescribingEvent({
    event: { schema: 'iglu:com.shop/patient/jsonschema/1-0-0', data: { number } },
  }), number))
  await leave()
  // It waits for the next event.
  await until('all events', async () => {
    await pause(tries.wait)
    const answer = page.waitForResponse((response) => isSent(response.request()))
    await page.evaluate(() => snowplowBrowserTracking.trackPageView())
    await answer
    return tries.has(given)
  })
  return tries.outcome(given)
})
console.log(JSON.stringify(outcome))
