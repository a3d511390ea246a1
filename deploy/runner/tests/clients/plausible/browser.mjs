// `browser.mjs <host> <key>`: @plausible-analytics/tracker and plausible-tracker in Chromium.
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { withShop } from '../shop.mjs'

const [host, key] = process.argv.slice(2)
const old = '/node_modules/plausible-tracker/build/module/lib'
// The old client was published for bundlers, which find files without their endings.
const html = `<!doctype html><title>Mug</title>
<script type="importmap">{"imports": {"${old}/tracker": "${old}/tracker.js", "${old}/request": "${old}/request.js"}}</script>
<h1>Mug</h1>
<a id="out" href="https://elsewhere.example/x" onclick="return false">elsewhere</a>
<a id="away" href="https://elsewhere.example/away">away</a>
<a id="file" href="/manual.pdf" onclick="return false">manual</a>
<form id="form" onsubmit="return false"><button id="send">send</button></form>
<div style="height: 4000px"></div>`

const outcome = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  const sent = []
  page.on('response', (response) => {
    const request = response.request()
    if (request.url().endsWith('/api/event')) sent.push({ status: response.status(), ...request.postDataJSON() })
  })
  await page.route('https://elsewhere.example/**', (route) => route.fulfill({ body: 'away' }))

  // The official one.
  await page.goto(`${origin}/official?utm_source=newsletter&utm_medium=email`)
  const statuses = await page.evaluate(async ([host, key]) => {
    const { init, track } = await import('/node_modules/@plausible-analytics/tracker/plausible.js')
    const tracked = (name, options) => new Promise((callback) => track(name, { ...options, callback }))
    init({
      domain: key, endpoint: `http://${host}/api/event`, captureOnLocalhost: true, outboundLinks: true, fileDownloads: true,
      formSubmissions: true,
    })
    scrollTo(0, 1500)
    await new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))
    history.pushState({}, '', '/official/mug')
    const results = [
      await tracked('Purchase', { revenue: { amount: 10.29, currency: 'USD' }, props: { order_id: 'plausible-1', method: 'card' } }),
      await tracked('Signup', { props: { plan: 'gold' }, interactive: false }),
    ]
    return results.map(({ status }) => status)
  }, [host, key])
  const goals = { '#out': 'Outbound Link: Click', '#file': 'File Download', '#send': 'Form: Submission' }
  for (const [id, goal] of Object.entries(goals)) {
    await Promise.all([page.waitForResponse((response) => response.request().postData()?.includes(goal)), page.click(id)])
  }

  // The old one, on a page that routes by hash.
  await page.goto(`${origin}/old`)
  await page.evaluate(async ([host, key]) => {
    const { default: Plausible } = await import('/node_modules/plausible-tracker/build/module/index.js')
    const plausible = Plausible({ domain: key, apiHost: `http://${host}`, trackLocalhost: true, hashMode: true })
    plausible.enableAutoPageviews()
    plausible.enableAutoOutboundTracking()
    await new Promise((callback) => plausible.trackEvent('Old signup', { props: { plan: 'silver' }, callback }))
    const moved = new Promise((seen) => addEventListener('hashchange', seen))
    location.hash = '#/cart'
    await moved
  }, [host, key])
  await Promise.all([page.waitForURL('https://elsewhere.example/away'), page.click('#away')])

  // A site that nobody knows: told once, not asked again.
  await page.goto(`${origin}/closed`)
  const refused = await page.evaluate(async (host) => {
    const { init, track } = await import('/node_modules/@plausible-analytics/tracker/plausible.js')
    init({ domain: 'nobody.example', endpoint: `http://${host}/api/event`, captureOnLocalhost: true, autoCapturePageviews: false })
    const { status } = await new Promise((callback) => track('Refused', { callback }))
    return status
  }, host)
  return { origin, statuses, refused, requests: sent.filter(({ n }) => n === 'Refused').length }
})
console.log(JSON.stringify(outcome))
