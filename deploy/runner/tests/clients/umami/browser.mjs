// `browser.mjs <host> <key>`: Umami's tracker in Chromium, as the package `umami` has it.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const html = `<!doctype html><title>Café Mug</title>
<script defer src="/node_modules/umami/src/tracker/index.js" data-website-id="${key}" data-host-url="http://${host}"></script>
<button id="subscribe" data-umami-event="newsletter" data-umami-event-place="footer">subscribe</button>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const statuses = []
  page.on('response', (response) => {
    if (response.request().method() === 'POST') statuses.push(response.status())
  })
  const answered = (what) =>
    page.waitForResponse((response) => response.request().method() === 'POST' && response.request().postData().includes(what))
  await Promise.all([answered('"url":"/umami?utm_source=newsletter"'), page.goto(`${origin}/umami?utm_source=newsletter`)])
  await Promise.all([answered('/umami/mug'), page.evaluate(() => history.pushState({}, '', '/umami/mug'))])
  await Promise.all([answered('newsletter"'), page.click('#subscribe')])
  await page.evaluate(async () => {
    await umami.track('purchase', { revenue: 19.99, currency: 'USD', order_id: 'umami-2', gift: true })
    await umami.track('signup')
    await umami.track((payload) => ({ ...payload, url: '/umami/virtual', title: 'Virtual' }))
    await umami.identify({ plan: 'gold' })
  })
  return { origin, statuses }
})
console.log(JSON.stringify(outcome))
