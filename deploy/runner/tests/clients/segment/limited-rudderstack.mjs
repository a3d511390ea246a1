// `limited-rudderstack.mjs <host> <key>`: @rudderstack/analytics-js in Chromium, of a store that is at its rate.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { crowd, Tries, until } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, writeKey] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><script type="module">
  import { RudderAnalytics } from '/node_modules/@rudderstack/analytics-js/dist/npm/modern/bundled/esm/index.mjs'
  window.analytics = new RudderAnalytics()
  analytics.load('${writeKey}', 'http://${host}', { configUrl: 'http://${host}' })
  analytics.ready(() => { window.isReady = true })
</script>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const tries = new Tries(429)
  tries.watch(page, (request) => (request.url().endsWith('/v1/track') ? [request.postDataJSON().properties.number] : []))
  await page.goto(`${origin}/mug`)
  await page.waitForFunction(() => window.isReady)
  const leave = await crowd(host, writeKey)
  const given = await tries.give((number) => page.evaluate((number) => analytics.track('Patient', { number }), number))
  await leave()
  await until('all events', () => tries.has(given))
  return tries.outcome(given)
})
console.log(JSON.stringify(outcome))
