// `features.mjs <collector> <key> [folder for screenshots]`: every feature, once. Prints a ledger of what was done.
import { arrive, kept, launch, openGate, openShop, until } from './shop.mjs'

const [target, key, pictures] = process.argv.slice(2)
const gate = await openGate(target)
const shop = await openShop(gate.url, key, {
  cookieless: { tag: 'data-consent="cookieless"' },
  asked: { tag: 'data-consent="none"' },
  ignoring: { tag: 'data-dnt="ignore"' },
  hash: { tag: 'data-hash="page"' },
  quiet: { tag: 'data-off="clicks links forms vitals errors"' },
  core: { build: 't.core.js' },
  module: { script: '/module.js', tag: `type="module" data-endpoint="${gate.url}/v1/collect"` },
})
const browser = await launch()
const ledger = {}
const wrong = []

/// A run's account: names in the order in which they happened, clicks, and what is known of the reports of left pages.
function account(run) {
  return (ledger[run] = { names: [], clicks: [], left: [], visitor: null })
}
const go = async (page, run, name) => {
  await page.goto(`${shop.origin}/${run}/${name}`)
  await page.waitForFunction(() => window.millrace && !window.millrace.q)
  // The view is counted a moment later, when the title is there.
  await page.waitForTimeout(120)
}
/// Until the page has nothing left to send.
const sent = (page) => until('an empty queue', async () => (await kept(page)).waiting === 0)
/// Leaves for a page that measures nothing.
const leave = (page) => page.goto('about:blank')
/// Until nothing more could answer a click: by the page's own clock, however slow it is.
const decided = (page) => page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 1200)))
const tap = async (page, to, id, more, clickCount = 1) => {
  const { x, y } = await page.evaluate((id) => {
    const box = document.getElementById(id).getBoundingClientRect()
    return { x: Math.round(box.left + scrollX + 10), y: Math.round(box.top + scrollY + 8) }
  }, id)
  const scroll = await page.evaluate(() => scrollY)
  await page.mouse.click(x, y - scroll, { clickCount })
  for (let i = 0; i < clickCount; i++) to.clicks.push({ x, y, selector: `#${id}`, dead: false, ...more })
}

async function multiplePages() {
  const to = account('full')
  const context = await arrive(browser, wrong)
  const page = await context.newPage()
  await go(page, 'full', 'home')
  to.names.push('before_the_script', 'page_view')
  await tap(page, to, 'alive')
  await tap(page, to, 'dead', { dead: true })
  await decided(page)
  await tap(page, to, 'rage', { dead: true, rage: true }, 3)
  await decided(page)
  await tap(page, to, 'out', { text: 'Elsewhere' })
  to.names.push('click')
  await tap(page, to, 'file', { text: 'Prices' })
  to.names.push('file_download')
  await tap(page, to, 'marked', { selector: '#marked>b', text: 'Wish' })
  to.names.push('add_to_wishlist')
  await tap(page, to, 'send', { text: 'Subscribe' })
  to.names.push('form_submit')
  await page.evaluate(() => {
    setTimeout(() => { throw new RangeError('no tea') })
    setTimeout(() => Promise.reject(new TypeError('no cup')))
  })
  await page.waitForTimeout(200)
  to.names.push('exception', 'exception')
  await page.evaluate(() => window.millrace('identify', 'user-7'))
  await page.evaluate(() => window.millrace('event', 'search', { label: 'mug', properties: { results: 3, exact: true } }))
  to.names.push('search')
  await page.evaluate(() => scrollTo(0, 1500))
  await page.waitForTimeout(300)
  if (pictures) await page.screenshot({ path: `${pictures}/home.png`, fullPage: true })
  // Also the answer to a click that still waits for one is decided when the page is left.
  await page.evaluate(() => scrollTo(0, 0))
  await tap(page, to, 'mug', { text: 'Mug' })
  await page.waitForURL('**/mug')
  to.left.push({ page: 'home', ms_min: 2400, depth_min: 60, depth_max: 80 })
  await page.waitForFunction(() => window.millrace && !window.millrace.q)
  await page.waitForTimeout(120)
  to.names.push('before_the_script', 'view_item', 'page_view')
  await tap(page, to, 'add', { text: 'Add to cart' })
  await tap(page, to, 'buy', { text: 'Buy' })
  to.names.push('add_to_cart', 'begin_checkout', 'purchase')
  await page.waitForTimeout(1200)
  Object.assign(to, await kept(page))
  await leave(page)
  to.left.push({ page: 'mug', ms_min: 1200, depth_min: 20, depth_max: 30 })
  // Back, out of the cache of pages: a showing of its own.
  await page.goBack({ waitUntil: 'commit' })
  to.is_from_cache = await page.evaluate(() => performance.getEntriesByType('navigation')[0].type !== 'back_forward')
  await page.waitForTimeout(120)
  if (!to.is_from_cache) {
    await page.waitForFunction(() => window.millrace && !window.millrace.q)
    await page.waitForTimeout(120)
    to.names.push('before_the_script', 'view_item')
  }
  to.names.push('page_view')
  await sent(page)
  await context.close()
}

async function singlePage() {
  const to = account('single')
  const context = await arrive(browser, wrong)
  const page = await context.newPage()
  await go(page, 'single', 'home')
  to.names.push('before_the_script', 'page_view')
  for (const id of ['spa-tea', 'spa-cup', 'spa-hash']) {
    await page.evaluate((id) => document.getElementById(id).click(), id)
    await page.waitForTimeout(120)
  }
  to.names.push('page_view', 'page_view')
  await page.evaluate(() => history.replaceState({}, '', location.href))
  await page.goBack()
  await page.goBack()
  await page.waitForTimeout(120)
  to.names.push('page_view')
  await page.evaluate(() => window.millrace('page', { title: 'Dialog', properties: { dialog: true } }))
  await page.waitForTimeout(120)
  to.names.push('page_view')
  await page.evaluate(() => window.millrace('event', 'last'))
  to.names.push('last')
  Object.assign(to, await kept(page))
  to.titles = ['home of single', 'Tea', 'Cup', 'Cup', 'Dialog']
  await sent(page)
  await context.close()

  const hash = account('hash')
  const other = await arrive(browser, wrong)
  const tab = await other.newPage()
  await go(tab, 'hash', 'home')
  await tab.evaluate(() => (location.hash = 'a'))
  await tab.waitForTimeout(120)
  hash.names.push('before_the_script', 'page_view', 'page_view')
  Object.assign(hash, await kept(tab))
  await sent(tab)
  await other.close()
}

async function consents() {
  const answers = async (run, more, act, names, init) => {
    const to = account(run)
    const context = await arrive(browser, wrong, more)
    if (init) await context.addInitScript(init)
    let requests = 0
    context.on('request', (request) => (requests += request.url().includes('/v1/collect') ? 1 : 0))
    const page = await context.newPage()
    await go(page, run, 'home')
    await page.evaluate(() => window.millrace('event', 'first'))
    to.names.push(...names)
    await act(page, to, () => requests)
    to.stored = await page.evaluate(() => Object.keys(localStorage).length + document.cookie.length)
    await context.close()
  }
  const all = ['before_the_script', 'page_view', 'first']
  const nothing = async (page, to, requests) => {
    await page.waitForTimeout(1000)
    to.requests = requests()
  }
  const arrives = async (page, to, requests) => {
    await until('a request', () => requests() > 0)
    // Its answer too, and what was said after it.
    await page.waitForTimeout(1000)
  }
  await answers('cookieless', {}, arrives, all)
  await answers('objecting', {}, nothing, [], () => Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { get: () => true }))
  await answers('tracked_not', {}, nothing, [], () => Object.defineProperty(Navigator.prototype, 'doNotTrack', { get: () => '1' }))
  await answers('ignoring', {}, async (page, to) => {
    Object.assign(to, await kept(page))
    await sent(page)
  }, all, () => Object.defineProperty(Navigator.prototype, 'doNotTrack', { get: () => '1' }))
  await answers('asked', {}, async (page, to, requests) => {
    await page.waitForTimeout(700)
    to.requests_before = requests()
    to.stored_before = await page.evaluate(() => Object.keys(localStorage).length)
    await page.evaluate(() => window.millrace('consent', 'full'))
    await page.evaluate(() => window.millrace('event', 'agreed'))
    Object.assign(to, await kept(page))
    await sent(page)
    await page.evaluate(() => window.millrace('consent', 'none'))
    await page.evaluate(() => window.millrace('event', 'never'))
  }, [...all, 'agreed'])
}

async function others() {
  // Somebody else at the same device.
  const to = account('reset')
  const context = await arrive(browser, wrong)
  const page = await context.newPage()
  await go(page, 'reset', 'home')
  await page.evaluate(() => (window.millrace('identify', 'user-1'), window.millrace('event', 'hers')))
  const first = await kept(page)
  await page.evaluate(() => (window.millrace('reset'), window.millrace('event', 'his')))
  const second = await kept(page)
  to.names.push('before_the_script', 'page_view', 'hers', 'his')
  Object.assign(to, { first, second })
  await sent(page)
  await context.close()

  // In a bundle of the shop's own instead of by the tag.
  const bundled = account('module')
  const reader = await arrive(browser, wrong)
  const book = await reader.newPage()
  await go(book, 'module', 'home')
  await tap(book, bundled, 'alive')
  await tap(book, bundled, 'file', { text: 'Prices' })
  bundled.names.push('before_the_script', 'page_view', 'file_download')
  Object.assign(bundled, await kept(book))
  await go(book, 'module', 'mug')
  bundled.left.push({ page: 'home', ms_min: 100, depth_min: 20, depth_max: 30 })
  bundled.names.push('before_the_script', 'view_item', 'page_view')
  await sent(book)
  await reader.close()

  // Nothing but views and events.
  for (const run of ['quiet', 'core']) {
    const quiet = account(run)
    const device = await arrive(browser, wrong)
    const tab = await device.newPage()
    await go(tab, run, 'home')
    for (const id of ['out', 'file', 'dead', 'alive', 'send']) await tap(tab, { clicks: [] }, id)
    await decided(tab)
    quiet.names.push('before_the_script', 'page_view')
    if (pictures) await tab.screenshot({ path: `${pictures}/${run}.png` })
    Object.assign(quiet, await kept(tab))
    await sent(tab)
    await device.close()
  }
}

try {
  // Devices of their own, so side by side.
  await Promise.all([multiplePages(), singlePage(), consents(), others()])
} finally {
  await browser.close()
  shop.close()
  await gate.close()
}
// The browser reports a page's errors a moment later, so the two thrown above are taken out here.
const unexpected = wrong.filter((text) => !/no tea|no cup/.test(text))
console.log(JSON.stringify({ ...ledger, wrong: unexpected, origin: shop.origin }))
