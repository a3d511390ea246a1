// `same-origin.mjs <origin>`: a shop's page whose policy lets nothing through but its own host, in Chromium. Prints what
// was asked for, in the order of the answers.
import { chromium } from 'playwright-core'

const [origin] = process.argv.slice(2)
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
})
try {
  const context = await browser.newContext({
    userAgent: 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
  })
  const page = await context.newPage()
  const wrong = []
  page.on('pageerror', (error) => wrong.push(String(error)))
  page.on('console', (message) => message.type() === 'error' && wrong.push(message.text()))
  const answers = []
  page.on('response', (response) => answers.push({ url: response.url(), status: response.status() }))
  const collected = page.waitForResponse((response) => response.url().includes('/v1/collect'))
  await page.goto(`${origin}/same-origin`)
  await collected
  console.log(JSON.stringify({ answers, wrong }))
} finally {
  await browser.close()
}
