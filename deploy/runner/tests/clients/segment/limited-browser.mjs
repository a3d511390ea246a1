// `limited-browser.mjs <host> <key>`: @segment/analytics-next in Chromium, of a store that is at its rate.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { crowd, Tries, until } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, writeKey] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><script src="/node_modules/@segment/analytics-next/dist/umd/index.js"></script>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const tries = new Tries(429)
  tries.watch(page, (request) => (request.url().endsWith('/v1/t') ? [request.postDataJSON().properties.number] : []))
  await page.goto(`${origin}/mug`)
  await page.evaluate(([host, writeKey]) => {
    window.analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey, cdnURL: `http://${host}` })
  }, [host, writeKey])
  const leave = await crowd(host, writeKey)
  const given = await tries.give((number) => page.evaluate((number) => void analytics.track('Patient', { number }), number))
  await leave()
  await until('all events', () => tries.has(given))
  return tries.outcome(given)
})
console.log(JSON.stringify(outcome))
