// `people.mjs`: two people at one device, for every call of the snippet, with every build. What the first one did is told as
// theirs, whenever it is sent, and nothing of it as the second one's. Ends with an error where that does not hold.
import assert from 'node:assert/strict'
import { arrive, kept, launch, openCollector, openShop, until } from './shop.mjs'

const KEY = 'a-key'
const wrong = []
const browser = await launch()
const collector = await openCollector()
const builds = ['t.js', 't.core.js']
const shops = await Promise.all(builds.map((build) => openShop(collector.url, KEY, {
  cookieless: { tag: 'data-consent="cookieless"' },
  asked: { tag: 'data-consent="none"' },
}, build)))

/// A device, and what has arrived of it.
async function device(shop, run) {
  const context = await arrive(browser, wrong)
  const own = `${shop.origin}/${run}/`
  const arrived = () => collector.events.filter(({ url }) => url.startsWith(own))
  return {
    context,
    arrived,
    named: (name) => arrived().filter((event) => event.name === name),
    views: (page) => arrived().filter((event) => event.type === 'page_view' && new RegExp(`${own}${page}(#|$)`).test(event.url)),
    async open(name = 'home') {
      const page = await context.newPage()
      await page.goto(own + name)
      await page.waitForFunction(() => window.millrace && !window.millrace.q)
      return page
    },
    go: async (page, name) => {
      await page.goto(own + name)
      await page.waitForFunction(() => window.millrace && !window.millrace.q)
    },
    /// Until a page of this device has been counted.
    counted: (page) => until(`the view of ${page}`, () => arrived().some(({ type, url }) => type === 'page_view' && url.endsWith(page))),
    sent: (page) => until('an empty queue', async () => (await kept(page)).waiting === 0),
  }
}
const say = (page, ...call) => page.evaluate((call) => window.millrace(...call), call)
const is = (event, who, why) => assert.deepEqual(
  [event.visitor_id, event.user_id || ''], [who.visitor, who.user ?? ''], `${why}: ${JSON.stringify(event)}`)
/// The path of a page does not stand in what was told of somebody.
const isNot = (events, path, why) => events.forEach((event) => assert.ok(!JSON.stringify(event).includes(path), `${why}: ${JSON.stringify(event)}`))

/// Somebody goes and somebody comes, on pages of documents of their own.
async function resets(shop, run, isIdentifiedOnly) {
  const at = await device(shop, run)
  const page = await at.open('private-of-ann')
  await say(page, 'identify', 'ann')
  await at.counted('private-of-ann')
  await page.mouse.click(30, 300)
  await say(page, 'event', 'hers')
  const ann = { visitor: (await kept(page)).visitor, user: 'ann' }
  if (!isIdentifiedOnly) await say(page, 'reset')
  await say(page, 'identify', 'ben')
  const ben = { visitor: (await kept(page)).visitor, user: 'ben' }
  assert.notEqual(ann.visitor, ben.visitor, 'another user is another visitor')
  await at.go(page, 'page-of-ben')
  await at.counted('page-of-ben')
  await say(page, 'purchase', { order_id: run, value: 1, currency: 'USD', items: [{ product_id: 'mug' }] })
  await say(page, 'page', { title: 'Dialog' })
  await say(page, 'event', 'his')
  await at.go(page, 'home')
  await at.sent(page)
  // The first view may have been counted before she was known.
  const views = at.views('private-of-ann')
  assert.ok(views.some(({ duration_ms }) => duration_ms > 0), 'it was left')
  for (const view of views) {
    assert.equal(view.visitor_id, ann.visitor)
    assert.notEqual(view.user_id, 'ben')
  }
  assert.equal(new Set(views.map(({ user_id }) => user_id || '')).size, 1, `every report of a view is of one person: ${JSON.stringify(views)}`)
  for (const event of at.named('hers')) is(event, ann, 'what she did')
  for (const event of [...at.named('his'), ...at.named('purchase'), ...at.views('page-of-ben'), ...at.views('home')]) is(event, ben, 'what he did')
  const clicks = at.arrived().filter(({ type, y }) => type === 'click' && y === 300)
  for (const click of clicks) is(click, ann, 'where she clicked')
  if (run.startsWith('t_js')) assert.equal(clicks.length, 1)
  for (const vital of at.named('web_vitals').filter(({ url }) => url.endsWith('private-of-ann'))) assert.equal(vital.visitor_id, ann.visitor)
  isNot(at.arrived().filter(({ user_id }) => user_id === 'ben'), 'private-of-ann', 'her page is not told as his')
  await at.context.close()
}

/// The same within one document.
async function single(shop) {
  const at = await device(shop, 'single')
  const page = await at.open('private-of-ann')
  await at.counted('private-of-ann')
  await say(page, 'identify', 'ann')
  await page.evaluate(() => document.getElementById('dead').click())
  const ann = { visitor: (await kept(page)).visitor, user: 'ann' }
  const click = page.mouse.click(30, 300)
  await click
  await page.evaluate(() => {
    window.millrace('page', { title: 'private-of-ann' })
    history.pushState({}, '', 'account-of-ann')
    window.millrace('reset')
    window.millrace('identify', 'ben')
    window.millrace('event', 'his')
  })
  const ben = { visitor: (await kept(page)).visitor, user: 'ben' }
  await page.waitForTimeout(1200)
  await page.evaluate(() => scrollTo(0, 2000))
  await page.evaluate(() => (document.title = 'ben', history.pushState({}, '', 'page-of-ben')))
  await at.counted('page-of-ben')
  await page.goto('about:blank')
  const other = await at.open('home')
  await at.sent(other)
  const views = [...at.views('private-of-ann'), ...at.views('account-of-ann')]
  assert.ok(at.views('account-of-ann').length > 0, 'a view is counted as that of who opened it, though somebody else came at once')
  for (const view of views) assert.deepEqual([view.visitor_id, view.user_id === 'ben'], [ann.visitor, false], JSON.stringify(view))
  for (const view of at.views('account-of-ann')) assert.ok(!(view.scroll_depth > 40), 'how far he scrolled is not told of her view')
  for (const click of at.arrived().filter(({ type }) => type === 'click')) is(click, ann, 'a click is of who clicked, whenever it is decided what came of it')
  for (const event of [...at.named('his'), ...at.views('page-of-ben'), ...at.views('home')]) is(event, ben, 'he')
  const his = at.arrived().filter(({ user_id, name }) => user_id === 'ben' && name !== 'his')
  isNot(his, 'of-ann', 'her page is not told as his')
  const ids = new Set(views.map(({ page_view_id }) => page_view_id))
  for (const { page_view_id } of at.arrived().filter(({ user_id }) => user_id === 'ben')) assert.ok(!ids.has(page_view_id), 'nor is he part of her view')
  await at.context.close()
}

/// What waits is told of who did it, though somebody else sends it.
async function waiting(shop) {
  const at = await device(shop, 'waiting')
  const page = await at.open('home')
  await at.counted('home')
  await at.context.setOffline(true)
  await say(page, 'identify', 'ann')
  for (let i = 0; i < 5; i++) await say(page, 'event', 'hers', { label: `${i}` })
  const ann = { visitor: (await kept(page)).visitor, user: 'ann' }
  await say(page, 'reset')
  await say(page, 'identify', 'ben')
  await say(page, 'event', 'his')
  const ben = { visitor: (await kept(page)).visitor, user: 'ben' }
  await at.context.setOffline(false)
  await at.sent(page)
  await until('all of it', () => at.named('hers').length >= 5 && at.named('his').length > 0)
  for (const event of at.named('hers')) is(event, ann, 'hers')
  for (const event of at.named('his')) is(event, ben, 'his')
  await at.context.close()
}

/// Tabs share the device, so whoever comes in one of them has come in all: as soon as a browser's process has told another's what
/// is kept, which people do not outrun, but a test does.
const told = async (page, other) => {
  const { person } = await kept(page)
  await until('another tab to be told', async () => (await kept(other)).person === person)
}

async function tabs(shop) {
  const at = await device(shop, 'tabs')
  const first = await at.open('private-of-ann')
  await say(first, 'identify', 'ann')
  await at.counted('private-of-ann')
  await say(first, 'event', 'hers')
  const ann = { visitor: (await kept(first)).visitor, user: 'ann' }
  const second = await at.open('second')
  await at.counted('second')
  await say(second, 'reset')
  await told(second, first)
  await say(first, 'event', 'nobodys')
  const nobody = { visitor: (await kept(first)).visitor }
  await say(second, 'identify', 'ben')
  await told(second, first)
  await say(first, 'event', 'his')
  await say(second, 'event', 'his')
  const ben = { visitor: (await kept(second)).visitor, user: 'ben' }
  const third = await at.open('third')
  await at.counted('third')
  await first.goto('about:blank')
  await at.go(second, 'home')
  await at.sent(second)
  await until('the reports of the first tab', () => at.views('private-of-ann').some(({ duration_ms }) => duration_ms > 0))
  for (const view of at.views('private-of-ann')) assert.deepEqual([view.visitor_id, view.user_id === 'ben'], [ann.visitor, false])
  for (const event of at.named('hers')) is(event, ann, 'hers')
  for (const event of at.named('nobodys')) is(event, nobody, 'after a reset in another tab')
  assert.notEqual(nobody.visitor, ann.visitor)
  assert.equal(at.named('his').length, 2)
  for (const event of [...at.named('his'), ...at.views('third')]) is(event, ben, 'his')
  await at.context.close()
}

/// Who is known when a page opens counts from its view on.
async function arrivals(shop) {
  const at = await device(shop, 'arrivals')
  await at.context.addInitScript(() => {
    window.millrace = function () { (window.millrace.q = window.millrace.q || []).push(arguments) }
    window.millrace('identify', location.pathname.endsWith('home') ? 'ann' : 'ben')
  })
  const page = await at.open('home')
  await at.counted('home')
  const ann = { visitor: (await kept(page)).visitor, user: 'ann' }
  for (const view of at.views('home')) is(view, ann, 'a user who is named at once')
  await at.go(page, 'mug')
  await at.counted('mug')
  const ben = { visitor: (await kept(page)).visitor, user: 'ben' }
  assert.notEqual(ann.visitor, ben.visitor)
  for (const view of at.views('mug')) is(view, ben, 'a page that says who opens it')
  // What names nobody is no user.
  for (const nobody of [undefined, null, '', 0, NaN]) await page.evaluate((nobody) => window.millrace('identify', nobody), nobody)
  await say(page, 'event', 'still')
  await at.sent(page)
  for (const event of at.named('still')) is(event, ben, 'nobody has no name')
  await at.context.close()
}

/// What was done without consent is not sent when somebody else consents; what was taken back stays so.
async function consents(shop) {
  const at = await device(shop, 'asked')
  const page = await at.open('private-of-ann')
  await say(page, 'identify', 'ann')
  await say(page, 'event', 'hers')
  await page.mouse.click(30, 300)
  await page.waitForTimeout(100)
  await say(page, 'reset')
  await say(page, 'identify', 'ben')
  await say(page, 'consent', 'full')
  await say(page, 'event', 'his')
  const ben = { visitor: (await kept(page)).visitor, user: 'ben' }
  await page.waitForTimeout(1200)
  await at.go(page, 'home')
  await say(page, 'consent', 'full')
  await at.counted('home')
  await at.sent(page)
  assert.deepEqual(at.named('hers'), [], 'what she did not agree to')
  assert.deepEqual(at.views('private-of-ann'), [], 'nor that she was there')
  assert.deepEqual(at.arrived().filter(({ type }) => type === 'click'), [])
  for (const event of at.named('his')) is(event, ben, 'his')

  for (const [to, run] of [['cookieless', 'less'], ['none', 'taken']]) {
    const at = await device(shop, run)
    const page = await at.open('home')
    await say(page, 'identify', 'ann')
    await at.counted('home')
    await at.sent(page)
    const before = at.arrived().length
    const { visitor } = await kept(page)
    await page.mouse.click(30, 300)
    await say(page, 'consent', to)
    await say(page, 'event', 'later')
    await page.waitForTimeout(1200)
    await say(page, 'consent', 'full')
    await say(page, 'event', 'last')
    await page.goto('about:blank')
    const next = await at.open('mug')
    await at.sent(next)
    const later = at.arrived().slice(before)
    isNot(later, visitor, 'who has taken back the consent is somebody else')
    assert.ok(later.some(({ name }) => name === 'last'))
    await at.context.close()
  }

  // With more consent than before the view stays what it was: nobody's that the device would know.
  const less = await device(shop, 'cookieless')
  const book = await less.open('home')
  await say(book, 'identify', 'ann')
  await less.counted('home')
  await say(book, 'reset')
  await say(book, 'identify', 'ben')
  await say(book, 'consent', 'full')
  await say(book, 'event', 'his')
  await less.go(book, 'mug')
  await less.counted('mug')
  const hers = [...less.views('home'), ...less.named('web_vitals').filter(({ url }) => url.endsWith('home'))]
  for (const event of hers) assert.deepEqual([event.visitor_id || '', event.user_id === 'ben'], ['', false], JSON.stringify(event))
  for (const event of less.named('his')) assert.equal(event.user_id, 'ben')
  await less.context.close()
  await at.context.close()
}

try {
  for (const [i, shop] of shops.entries()) {
    await Promise.all([
      resets(shop, `${builds[i]}-reset`.replaceAll('.', '_')), resets(shop, `${builds[i]}-identify`.replaceAll('.', '_'), true),
      single(shop), waiting(shop), tabs(shop), arrivals(shop), consents(shop),
    ])
  }
  assert.deepEqual(wrong, [], 'errors in pages')
} finally {
  await browser.close()
  shops.map((shop) => shop.close())
  collector.close()
}
