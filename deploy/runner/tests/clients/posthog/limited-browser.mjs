// `limited-browser.mjs <host> <key>`: posthog-js in Chromium, of a store that is at its rate.
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { chromium } from 'playwright-core'
import { crowd, Tries, until } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title><script src="/node_modules/posthog-js/dist/array.js"></script>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const tries = new Tries(503)
  tries.watch(page, (request) => {
    if (!request.url().includes('/e/')) return []
    const bytes = request.postDataBuffer()
    // Compressed if it was told so, which it was not where its first question was refused, too.
    const body = JSON.parse(bytes[0] === 0x1f ? gunzipSync(bytes) : bytes)
    return (body.batch ?? [body]).map(({ properties }) => properties.number)
  })
  await page.goto(`${origin}/mug`)
  const leave = await crowd(host, key)
  await page.evaluate(([key, host]) => posthog.init(key, { api_host: `http://${host}`, defaults: '2025-11-30' }), [key, host])
  const given = await tries.give((number) => page.evaluate((number) => void posthog.capture('patient', { number }), number))
  await leave()
  await until('all events', () => tries.has(given))
  return tries.outcome(given)
})
console.log(JSON.stringify(outcome))
