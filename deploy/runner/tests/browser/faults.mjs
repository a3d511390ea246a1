// `faults.mjs <collector> <key> <key of a store that takes an event a second> <a collector that knows no store yet>`: phones
// without a net, tabs that are closed, storage that is not there, a collector that is away, that says later or no, proxies that
// take less, pages that bend everything. Prints a ledger of what was queued.
import { arrive, kept, launch, openGate, openProxy, openShop, pause, until } from './shop.mjs'

const [target, key, busyKey, starting] = process.argv.slice(2)
const gate = await openGate(target)
const shop = await openShop(gate.url, key, { no: { key: 'no-such-key' }, busy: { key: busyKey } })
const browser = await launch()
const ledger = {}
const wrong = []
const AWAY_MS = 60_000

async function open(context, run, { origin } = shop) {
  const page = await context.newPage()
  await page.goto(`${origin}/${run}/home`)
  await page.waitForFunction(() => window.millrace && !window.millrace.q)
  await page.waitForTimeout(120)
  return page
}
const empty = (page) => until('an empty queue', async () => (await kept(page)).waiting === 0)
/// How many numbered events of a page the collector has accepted.
function accepted(page) {
  const labels = new Set()
  page.on('response', (response) => {
    if (response.status() !== 202) return
    for (const { name, label } of JSON.parse(response.request().postData()).events) if (name === 'numbered') labels.add(label)
  })
  return () => labels.size
}
/// Numbers `count` events of a run and queues them.
async function queue(page, run, count, text = 'é'.repeat(500)) {
  const labels = (ledger[run] ??= { labels: [] }).labels
  const first = labels.length
  await page.evaluate(([first, count, text]) => {
    for (let i = first; i < first + count; i++) window.millrace('event', 'numbered', { label: `${i}`, properties: { text } })
  }, [first, count, text])
  for (let i = first; i < first + count; i++) labels.push(`${i}`)
}

/// A phone goes out of the net; its tab is closed there, and another is opened when it is back.
async function offline() {
  const context = await arrive(browser, wrong)
  const page = await open(context, 'offline')
  await context.setOffline(true)
  await queue(page, 'offline', 5)
  await page.waitForTimeout(1500)
  ledger.offline.waiting = (await kept(page)).waiting
  await context.setOffline(false)
  await empty(page)
  await context.close()
}

/// The collector is away for a minute: what waits is sent without anybody doing anything, when it is back.
async function away() {
  const gate = await openGate(target)
  const shop = await openShop(gate.url, key, {})
  const context = await arrive(browser, wrong)
  const page = await open(context, 'away', shop)
  const closing = await open(context, 'away', shop)
  const blind = await arrive(browser, wrong)
  await blind.addInitScript(() => Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } }))
  const full = await arrive(browser, wrong)
  await full.addInitScript(() => {
    for (let size = 1 << 22; size >= 1; size >>= 1) for (let i = 0; i < 4; i++) try { localStorage[`shop${size}.${i}`] = 'x'.repeat(size) } catch {}
  })
  const [blocked, filled] = await Promise.all([open(blind, 'blocked', shop), open(full, 'filled', shop)])
  const [fromBlocked, fromFilled] = [accepted(blocked), accepted(filled)]
  await gate.close()
  await queue(page, 'away', 40)
  await queue(closing, 'away', 60)
  await queue(blocked, 'blocked', 10)
  await queue(filled, 'filled', 10)
  await closing.close()
  await pause(AWAY_MS)
  ledger.away.waiting = (await kept(page)).waiting
  await gate.open()
  await empty(page)
  await until('what was in memory alone', () => fromBlocked() === 10 && fromFilled() === 10)
  await Promise.all([context, blind, full].map((each) => each.close()))
  shop.close()
  await gate.close()
}

/// A tab is closed with everything in it, and the next one sends what it finds.
async function closed() {
  const context = await arrive(browser, wrong)
  const page = await open(context, 'closed')
  await empty(page)
  await gate.close()
  await queue(page, 'closed', 60)
  await page.close()
  await gate.open()
  const next = await open(context, 'closed')
  await empty(next)
  await context.close()
}

/// Several tabs have one queue.
async function tabs() {
  const context = await arrive(browser, wrong)
  const pages = await Promise.all([1, 2, 3].map(() => open(context, 'tabs')))
  for (let round = 0; round < 3; round++) for (const page of pages) await queue(page, 'tabs', 5)
  await empty(pages[0])
  await context.close()
}

/// A key that is not known, now: what was queued waits.
async function refused() {
  const context = await arrive(browser, wrong)
  const page = await context.newPage()
  const statuses = []
  page.on('response', (response) => response.url().includes('/v1/collect') && statuses.push(response.status()))
  await page.goto(`${shop.origin}/no/home`)
  await until('two refusals', () => statuses.length > 1)
  ledger.refused = { labels: [], statuses, waiting: (await kept(page)).waiting }
  await context.close()
}

/// A collector that says later, and when: it is asked again then, and not before.
async function later(run, where, between) {
  const context = await arrive(browser, wrong)
  // When the page asks, and when it has heard the answer.
  await context.addInitScript(() => {
    const { fetch } = window
    window.talk = []
    window.fetch = async (...request) => {
      const turn = { asked: performance.now() }
      window.talk.push(turn)
      const answer = await fetch(...request)
      const { text } = answer
      answer.text = async () => {
        const said = await text.call(answer)
        Object.assign(turn, { heard: performance.now(), status: answer.status, retry_after_s: +answer.headers.get('retry-after') })
        return said
      }
      return answer
    }
  })
  const page = await context.newPage()
  await page.goto(`${where.origin}/${run}/home`)
  await page.waitForFunction(() => window.millrace && !window.millrace.q)
  await queue(page, run, 5)
  await until('a refusal', () => page.evaluate(() => window.talk.some(({ status }) => status >= 400)))
  await between()
  await empty(page)
  const talk = await page.evaluate(() => window.talk)
  ledger[run].answers = talk.map(({ heard, status, retry_after_s }) => {
    const next = talk.find(({ asked }) => asked > heard)
    return { status, retry_after_s, pause_ms: next && next.asked - heard }
  })
  await context.close()
}

/// A store that is sent more than it takes: 429.
async function busy() {
  const event = { type: 'event', name: 'rush', visitor_id: 'somebody', url: `${shop.origin}/rush` }
  const post = async (events) => {
    const body = JSON.stringify(Array(events).fill(event))
    return (await fetch(`http://${target}/v1/collect?key=${busyKey}`, { method: 'POST', body })).status
  }
  // The key is known within seconds.
  await until('the rush', async () => (await post(500)) === 202)
  // Others take all that comes back of its rate, until the page has been refused.
  let isOver = false
  const others = (async () => {
    while (!isOver) await Promise.all([post(1), pause(100)])
  })()
  await later('busy', shop, () => {
    isOver = true
    return others
  })
}

/// A collector that knows no store yet: 503. Another one, which does, takes its place.
async function unavailable() {
  const gate = await openGate(starting)
  const shop = await openShop(gate.url, key, {})
  await later('unavailable', shop, async () => {
    await gate.close()
    gate.lead(target)
    await gate.open()
  })
  shop.close()
  await gate.close()
}

/// A visit through a proxy that takes three events and 6 kB at once.
async function throughNarrow(run, visit) {
  const proxy = await openProxy(target)
  const shop = await openShop(proxy.url, key, {})
  const context = await arrive(browser, wrong)
  const page = await open(context, run, shop)
  await empty(page)
  proxy.posts = []
  proxy.isMuch = (events, body) => events.length > 3 || body.length > 6000
  await empty(await visit(context, page, shop))
  ledger[run].posts = proxy.posts
  await context.close()
  shop.close()
  proxy.close()
}

/// More waits than passes at once, and in its middle an event that never will.
const narrow = () => throughNarrow('narrow', async (context, page) => {
  await context.setOffline(true)
  await queue(page, 'narrow', 6, 'little')
  await page.evaluate(() => window.millrace('event', 'giant', { properties: { text: 'x'.repeat(9000) } }))
  await queue(page, 'narrow', 6, 'little')
  await context.setOffline(false)
  return page
})

/// A tab is closed and hears no refusal; two others find what it has left.
const narrowTabs = () => throughNarrow('narrow_tabs', async (context, page, shop) => {
  await queue(page, 'narrow_tabs', 40)
  await page.close()
  const [next] = await Promise.all([1, 2].map(() => open(context, 'narrow_tabs', shop)))
  return next
})

/// Whatever a page has done to the language, nothing of it shows in the page.
async function hostile() {
  const tricks = {
    no_crypto: () => Object.defineProperty(window, 'crypto', { get: () => undefined }),
    frozen: () => [Object, Array, String, Function].forEach((type) => (Object.freeze(type), Object.freeze(type.prototype))),
    to_json: () => (Array.prototype.toJSON = function () { return `${this}` }),
    extended: () => (Object.prototype.extra = () => 'extra', Array.prototype.last = () => 'last'),
    no_intl: () => delete window.Intl,
    no_observers: () => delete window.PerformanceObserver,
    no_timeout: () => delete AbortSignal.timeout,
    throwing_fetch: () => (window.fetch = () => { throw new Error('no fetch') }),
    odd_fetch: () => (window.fetch = () => undefined),
    no_json: () => (JSON.stringify = () => { throw new Error('no JSON') }),
    no_time: () => (Date.now = () => { throw new Error('no time') }),
  }
  for (const [name, trick] of Object.entries(tricks)) {
    const context = await arrive(browser, wrong)
    await context.addInitScript(trick)
    const page = await context.newPage()
    await page.goto(`${shop.origin}/${name}/home`)
    await page.waitForFunction(() => document.readyState === 'complete')
    await page.evaluate(() => {
      window.millrace('event', 'numbered', { label: '0' })
      document.getElementById('alive').click()
      history.pushState({}, '', 'elsewhere')
    })
    await page.click('#dead')
    if (!/throwing|odd|no_json|no_time$/.test(name)) {
      ledger[name] = { labels: ['0'] }
      await page.waitForTimeout(600)
      await until('an empty queue', async () => (await kept(page)).waiting === 0)
    }
    if (await page.textContent('#said') !== '!') wrong.push(`${name}: the page itself no longer works`)
    await context.close()
  }
}

try {
  const short = async () => {
    await Promise.all([offline(), tabs(), refused(), hostile(), busy(), unavailable(), narrow(), narrowTabs()])
    await closed()
  }
  await Promise.all([away(), short()])
} finally {
  await browser.close()
  shop.close()
  await gate.close()
}
console.log(JSON.stringify({ ...ledger, wrong, origin: shop.origin }))
