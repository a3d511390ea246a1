// `visits.mjs <collector> <key>`: what is seen when, and for how long. Pages that are rendered ahead, tabs in the background,
// sessions that end, pages that only a beacon may leave. Prints a ledger of what was done.
import { arrive, kept, launch, openGate, openShop, openWindow, pause, release, until } from './shop.mjs'

const [target, key] = process.argv.slice(2)
const gate = await openGate(target)
const shop = await openShop(gate.url, key, {})
const browser = await launch()
const ledger = {}
const wrong = []
/// What stays open until the end: what has left with a page is on its way.
const open = []
const MINUTE_MS = 60_000

const account = (run) => (ledger[run] = { names: [], clicks: [], left: [], visitor: null })
const isReady = () => !!window.millrace && !window.millrace.q
/// What rows say of the device, for windows whose size is the browser's choice.
const device = () => ({ screen_width: screen.width, screen_height: screen.height, viewport_width: innerWidth, viewport_height: innerHeight })
const readied = (tab) => until('the snippet', () => tab.evaluate(isReady))
const emptied = (tab) => until('an empty queue', async () => (await kept(tab)).waiting === 0)

/// A page that is rendered ahead counts when it is shown, and not at all when it never is.
async function ahead() {
  const to = account('ahead')
  open.push(release(`${shop.origin}/ahead/door`))
  to.names.push('before_the_script', 'page_view')
  await until('a page that was rendered ahead', shop.told)
  Object.assign(to, shop.told())
  to.names.push('before_the_script', 'page_view')
  to.left.push({ page: 'door', ms_min: 1000, depth_min: 5, depth_max: 40 })
  to.left.push({ page: 'home', ms_min: 400, depth_min: 5, depth_max: 40 })
}

/// Time that nobody sees is no time.
async function background() {
  const to = account('background')
  const window = await openWindow(browser)
  const tab = await window.open(`${shop.origin}/background/home`)
  const began = Date.now()
  await readied(tab)
  to.names.push('before_the_script', 'page_view')
  to.device = await tab.evaluate(device)
  await pause(300)
  const opens = Date.now()
  const unseen = await window.open(`${shop.origin}/background/mug`)
  await until('a hidden tab', () => tab.evaluate(() => document.hidden))
  const hidden = Date.now()
  await readied(unseen)
  to.names.push('before_the_script', 'view_item', 'page_view')
  await pause(3000)
  const returns = Date.now()
  await tab.show()
  await until('a visible tab', () => tab.evaluate(() => !document.hidden))
  await pause(300)
  Object.assign(to, await kept(tab))
  await tab.close()
  to.left.push({ page: 'home', ms_min: 600, ms_max: Date.now() - began - (returns - hidden), depth_min: 5, depth_max: 30 })
  to.left.push({ page: 'mug', ms_min: 2900, ms_max: Date.now() - opens, depth_min: 5, depth_max: 30 })
  // What a closed tab has left the next one sends, when it sends anything.
  await unseen.evaluate(() => window.millrace('event', 'last'))
  to.names.push('last')
  await emptied(unseen)
  await window.close()
}

/// Half an hour without an event ends a session, and so do 24 hours with them. All of it is sent in the end, by a clock that is
/// more than a day ahead.
async function sessions() {
  const to = account('sessions')
  to.sessions = []
  const context = await arrive(browser, wrong)
  await context.addInitScript(() => {
    const now = Date.now
    window.ahead = 0
    Date.now = () => now() + window.ahead
  })
  await context.route('**/v1/collect*', (route) => route.abort())
  const page = await context.newPage()
  await page.goto(`${shop.origin}/sessions/home`)
  await page.waitForFunction(isReady)
  to.names.push('before_the_script', 'page_view')
  const happens = async (name, after) => {
    to.names.push(name)
    to.sessions.push({ name, after_ms: after * MINUTE_MS })
    await page.evaluate(([name, ms]) => (window.ahead += ms, window.millrace('event', name)), [name, after * MINUTE_MS])
  }
  await happens('first', 0)
  await happens('first', 29)
  await happens('first', 29)
  await happens('second', 31)
  for (let i = 1; i * 29 < 24 * 60; i++) await happens('second', 29)
  await happens('third', 29)
  await context.unroute('**/v1/collect*')
  await emptied(page)
  await context.close()
}

/// A browser that lets nothing but a beacon leave with a page: what it carries is counted though nobody hears the answer, and
/// once though the next page sends it again.
async function beacons() {
  for (const run of ['beacon', 'beacon_twice']) {
    const to = account(run)
    const context = await arrive(browser, wrong)
    open.push(context)
    await context.addInitScript(() => {
      delete Request.prototype.keepalive
      const { sendBeacon } = navigator
      Navigator.prototype.sendBeacon = function (url, body) {
        localStorage.beacon = (localStorage.beacon ?? '') + body
        return sendBeacon.call(this, url, body)
      }
    })
    let fetched = ''
    context.on('request', (request) => (fetched += request.resourceType() === 'fetch' ? request.postData() : ''))
    const page = await context.newPage()
    await page.goto(`${shop.origin}/${run}/home`)
    await page.waitForFunction(isReady)
    to.names.push('before_the_script', 'page_view')
    await pause(400)
    Object.assign(to, await kept(page))
    await emptied(page)
    to.left.push({ page: 'home', ms_min: 300, depth_min: 20, depth_max: 30 })
    // A page without the snippet, or the next one with it.
    await page.goto(`${shop.origin}/${run === 'beacon' ? 'stub.js' : `${run}/mug`}`)
    if (run === 'beacon_twice') {
      await page.waitForFunction(isReady)
      to.names.push('before_the_script', 'view_item', 'page_view')
      await emptied(page)
    }
    const beacon = await page.evaluate(() => localStorage.beacon ?? '')
    const ids = [...beacon.matchAll(/"event_id":"([^"]+)"/g)].map((match) => match[1])
    Object.assign(to, { beacon: ids.length, again: ids.filter((id) => fetched.includes(id)).length })
  }
}

try {
  await Promise.all([beacons(), ahead(), sessions(), background()])
} finally {
  await Promise.all(open.map((each) => each.close()))
  await browser.close()
  shop.close()
  await gate.close()
}
console.log(JSON.stringify({ ...ledger, wrong, origin: shop.origin }))
