// `attacks.mjs [pattern]`: pages whose markup, storage or scripts are against the snippet, and collectors that answer no; those
// whose names match alone. With MILLRACE_ACCEPT everything with every build. Ends with an error where something is lost, sent
// elsewhere or thrown into the page.
import assert from 'node:assert/strict'
import { arrive, kept, launch, openCollector, openShop, pause, until } from './shop.mjs'

const KEY = 'a-key'
const RECORD = `mr.${KEY}`
const only = process.argv[2] && new RegExp(process.argv[2])
const isLong = !!process.env.MILLRACE_ACCEPT
const wrong = []
const browser = await launch()
const thief = await openCollector()

/// Elements of which each puts itself over something of the document's or the window's.
const covers = ['currentScript', 'title', 'referrer', 'hidden', 'documentElement', 'prerendering', 'addEventListener', 'visibilityState', 'body', 'location',
  'dispatchEvent', 'cookie', 'defaultView', 'readyState']
const over = (element) => covers.map((name) => element.replaceAll('NAME', name)).join('')
const markups = {
  images: over(`<img name=NAME src="${thief.url}/t.js" data-endpoint="${thief.url}/v1/collect" data-key="theirs">`),
  forms: over(`<form name=NAME data-endpoint="${thief.url}/v1/collect" data-key="theirs"><input name=src value="${thief.url}/t.js"></form>`),
  embeds: over(`<embed name=NAME src="${thief.url}/t.js" data-endpoint="${thief.url}/v1/collect">`),
  objects: over('<object name=NAME id=NAME></object>'),
  frames: over('<iframe name=NAME srcdoc=""></iframe>'),
  link: `<a id=millrace></a><a id=millrace name=q href="${thief.url}"></a>`,
  form: '<form id=millrace><input name=q></form>',
  embed: '<embed id=millrace>',
  frame: `<iframe name=millrace src="${thief.url}/stub.js"></iframe>`,
  svg: `<svg><script data-endpoint="${thief.url}/v1/collect" href="${thief.url}/t.js"></script></svg>`,
}
/// What pages and their libraries have done to the language.
const tricks = {
  // As Prototype.js 1.6 and 1.7 have it.
  prototype_js: () => {
    Array.prototype.toJSON = function () { return `[${this.map((item) => JSON.stringify(item)).join(', ')}]` }
    String.prototype.toJSON = function () { return `"${this}"` }
    Date.prototype.toJSON = function () { return `"${+this}"` }
  },
  no_to_json: () => [Object, Array, String, Date, Number].forEach(({ prototype }) => {
    Object.defineProperty(prototype, 'toJSON', { value() { throw new Error('no JSON') }, enumerable: false, configurable: false })
  }),
  object_to_json: () => (Object.prototype.toJSON = () => 'bent'),
  polluted: () => Object.assign(Object.prototype, {
    endpoint: 'THIEF', key: 'theirs', consent: 'none', dnt: 'ignore', hash: 'page', off: 'clicks', headers: 5, mode: 'no-cors', method: 'TRACE', body: 'theirs',
    visitor_id: 'theirs', session_id: 'theirs', user_id: 'theirs', sequence: -1, src: 'THIEF', items: ['theirs'],
  }),
}

async function device(shop, run) {
  const context = await arrive(browser, wrong)
  const page = await context.newPage()
  const own = `${shop.origin}/${run}/`
  return {
    context,
    page,
    open: async (name = 'home') => {
      await page.goto(own + name)
      await page.waitForFunction(() => typeof window.millrace === 'function' && !window.millrace.q)
    },
    arrived: () => shop.collector.events.filter(({ url }) => url.startsWith(own)),
    say: (...call) => page.evaluate((call) => window.millrace(...call), call),
  }
}
const names = (events) => events.map(({ name, type }) => name ?? type)
const has = (at, ...wanted) => until(`${wanted}`, () => wanted.every((name) => names(at.arrived()).includes(name)))

/// Markup that somebody may put into a page (a review, a name) changes nothing of what is sent, nor whereto.
async function clobbered(shop, run, build) {
  const at = await device(shop, run)
  await at.open()
  await at.say('event', 'hers')
  await has(at, 'page_view', 'hers')
  const view = at.arrived().find(({ type }) => type === 'page_view')
  assert.deepEqual([view.title, view.referrer], [`home of ${run}`, ''])
  if (build === 't.js') {
    await at.page.mouse.click(30, 300)
    // A form whose fields have the names of what is asked of it.
    await at.page.evaluate(() => {
      const form = document.createElement('form')
      form.setAttribute('name', 'own-name')
      form.setAttribute('action', '/own-action')
      form.setAttribute('data-mr-event', 'marked')
      for (const name of ['id', 'name', 'action', 'tagName', 'localName', 'closest', 'matches', 'getAttribute', 'attributes', 'parentElement', 'children', 'textContent', 'nodeType']) {
        const field = document.createElement('input')
        field.name = name
        form.append(field)
      }
      const button = document.createElement('button')
      button.textContent = 'Order'
      form.append(button)
      form.addEventListener('submit', (event) => event.preventDefault())
      document.querySelector('h1').after(form)
    })
    const box = await at.page.evaluate(() => {
      const button = [...document.querySelectorAll('button')].find((button) => button.textContent === 'Order')
      const { left, top } = button.getBoundingClientRect()
      return { x: left + 3, y: top + 3 }
    })
    await at.page.mouse.click(box.x, box.y)
    await has(at, 'marked', 'form_submit')
    const { properties } = at.arrived().find(({ name }) => name === 'form_submit')
    assert.deepEqual([properties.form_id, properties.form_name, new URL(properties.form_destination).pathname], ['', 'own-name', '/own-action'])
    await until('its clicks', () => at.arrived().filter(({ type }) => type === 'click').length >= 2)
    for (const { selector } of at.arrived().filter(({ type }) => type === 'click')) assert.match(selector, /^[\w#>:()-]+$/)
  }
  await at.page.goto('about:blank')
  await at.context.close()
}

async function bent(shop, run) {
  const at = await device(shop, run)
  await at.context.addInitScript(`(${tricks[run]})()`.replaceAll('THIEF', `${thief.url}/v1/collect`))
  await at.open()
  await at.page.evaluate(() => {
    window.millrace('purchase', {
      order_id: '7', value: 30, currency: 'USD', items: [{ product_id: 'mug', price: 12.5 }, { product_id: 'tea', price: 5 }],
      // A page's own class says itself how it is written.
      properties: { gift: true, when: new Date(5), amount: new (class { toJSON() { return '12.50' } })(), none: undefined },
    })
  })
  await has(at, 'page_view', 'purchase')
  const purchase = at.arrived().find(({ name }) => name === 'purchase')
  assert.deepEqual(purchase.items, [{ product_id: 'mug', price: 12.5 }, { product_id: 'tea', price: 5 }])
  assert.deepEqual([purchase.properties.gift, purchase.properties.amount, purchase.value], [true, '12.50', 30])
  assert.equal(+new Date(purchase.properties.when), 5)
  for (const event of at.arrived()) {
    assert.match(event.visitor_id, /^[\da-f-]{36}$/, 'of its own')
    assert.deepEqual([event.user_id || '', event.sequence > 0], ['', true])
  }
  await at.context.close()
}

/// What can stand where the visitor was kept.
const uuid = '01a21d85-94ed-7264-8242-03058326f3aa'
const record = (more) => JSON.stringify({ visitor_id: uuid, session_id: uuid, sequence: 5, user_id: '', began: Date.now(), last: Date.now(), ...more })
const records = {
  nothing: '', word: 'visitor', cut: record().slice(0, 60), nul: 'null', number: '17', text: '"text"', list: '[1,2]', true: 'true',
  empty: '{}', no_visitor: record({ visitor_id: null }), visitor_number: record({ visitor_id: 7 }), visitor_object: record({ visitor_id: { a: 1 } }),
  visitor_list: record({ visitor_id: [uuid] }), visitor_empty: record({ visitor_id: '' }), no_session: record({ session_id: 0 }), session_list: record({ session_id: ['x'] }),
  sequence_text: record({ sequence: 'many' }), sequence_less: record({ sequence: -7.5 }), sequence_more: record({ sequence: 1e300 }), sequence_object: record({ sequence: {} }),
  user_object: record({ user_id: { a: 1 } }), user_list: record({ user_id: [] }), future: record({ began: Date.now() + 1e12, last: Date.now() + 1e12 }),
  times: record({ began: 'then', last: null }), version: JSON.stringify({ v: 2, id: uuid }), fields: record({ type: 'purchase', order_id: '1', value: 9e9, items: [] }),
  huge: 'x'.repeat(4_000_000), huge_visitor: record({ visitor_id: 'x'.repeat(1_000_000) }), huge_user: record({ user_id: 'x'.repeat(1_000_000) }), deep: '['.repeat(100_000),
}

/// Whatever stands in the storage, events go out with a visitor of their own, who stays.
async function damaged(shop, run, text) {
  const at = await device(shop, run)
  await at.page.goto(`${shop.origin}/stub.js`)
  await at.page.evaluate(([name, text]) => (localStorage[name] = text), [RECORD, text])
  await at.open()
  await at.say('event', 'first')
  await at.say('event', 'second')
  await has(at, 'page_view', 'first', 'second')
  await at.open('mug')
  await at.say('event', 'third')
  await has(at, 'third')
  const visitors = new Set(at.arrived().map(({ visitor_id }) => visitor_id))
  assert.equal(visitors.size, 1, `${run}: a visitor who stays: ${[...visitors].join().slice(0, 200)}`)
  for (const event of at.arrived()) {
    assert.match(event.visitor_id, /^[\da-f-]{36}$/, run)
    assert.match(event.session_id, /^[\da-f-]{36}$/, run)
    assert.ok(event.sequence === null || Number.isInteger(event.sequence) && event.sequence < 2 ** 32, `${run}: ${event.sequence}`)
    assert.ok((event.user_id ?? '').length <= 4096 && event.order_id === undefined, run)
  }
  const last = at.arrived().find(({ name }) => name === 'third').sequence
  assert.ok(last > 0, `${run}: ${last}`)
  await at.context.close()
}

/// A storage without room: events go out, and when there is room again there is a visitor again.
async function full(shop, run) {
  const at = await device(shop, run)
  await at.page.goto(`${shop.origin}/stub.js`)
  await at.page.evaluate(() => {
    for (let size = 1 << 22; size >= 1; size >>= 1) {
      for (let i = 0; i < 4; i++) try { localStorage[`shop${size}.${i}`] = 'x'.repeat(size) } catch {}
    }
  })
  await at.open()
  await at.say('identify', 'ann')
  await at.say('event', 'without')
  await has(at, 'page_view', 'without')
  assert.equal(at.arrived().find(({ name }) => name === 'without').user_id, 'ann')
  await at.page.evaluate(() => Object.keys(localStorage).forEach((name) => name.startsWith('shop') && localStorage.removeItem(name)))
  await at.say('event', 'with')
  await has(at, 'with')
  const event = at.arrived().find(({ name }) => name === 'with')
  assert.match(event.visitor_id, /^[\da-f-]{36}$/)
  assert.equal(event.user_id, 'ann')
  await at.context.close()
}

/// A damaged event takes none of the others along.
async function neighbours(shop, run) {
  const at = await device(shop, run)
  await at.page.goto(`${shop.origin}/stub.js`)
  await at.page.evaluate(([prefix, url]) => {
    const id = (i) => `01a21d85-94ed-7264-8242-0305832600${10 + i}`
    const event = (i) => JSON.stringify({ type: 'event', name: 'kept', url, event_id: id(i), label: `${i}` })
    const texts = [event(0), '{"type":"event"', event(2), 'null', event(4), '5', event(6), '[]', event(8), '{}', '],"events":[', event(11)]
    texts.forEach((text, i) => (localStorage[`${prefix}.${id(i)}`] = text))
  }, [RECORD, `${shop.origin}/${run}/home`])
  await at.open()
  await until('the others', () => at.arrived().filter(({ name }) => name === 'kept').length === 6)
  await until('an empty queue', async () => (await kept(at.page)).waiting === 0)
  // Nor does another store's consent on the same site.
  await at.page.evaluate((prefix) => (localStorage[`${prefix}2`] = 'theirs', localStorage[`${prefix}2.${1}`] = 'theirs', window.millrace('consent', 'none')), RECORD)
  assert.deepEqual((await at.page.evaluate(() => Object.keys(localStorage))).sort(), [`${RECORD}2`, `${RECORD}2.1`])
  await at.context.close()
}

/// A key that is not known yet, or was exchanged: what happens meanwhile waits, for a day, and is asked for ever more seldom.
async function unknown(shop, run) {
  const at = await device(shop, run)
  const said = []
  at.page.on('console', (message) => message.type() === 'warning' && said.push(message.text()))
  const { collector } = shop
  const mine = () => collector.posts.filter(({ from }) => from === run)
  let isKnown = false
  collector.refuse[run] = () => !isKnown && 401
  await at.open()
  await at.say('event', 'first')
  await until('refusals', () => mine().length >= 3)
  assert.ok((await kept(at.page)).waiting >= 2, 'nothing is given up')
  await at.open('mug')
  await at.say('event', 'second')
  await until('a refusal', () => mine().length >= 4)
  // The rests grow.
  const before = mine().length
  await pause(6000)
  const rests = mine().length - before
  assert.ok(rests <= 8, `${rests} requests in 6 s`)
  isKnown = true
  await has(at, 'first', 'second')
  assert.ok(said.length >= 1 && said.length <= 2, `one word a page: ${said}`)
  // After a day it is over.
  isKnown = false
  await at.say('event', 'old')
  const count = mine().length
  await until('a refusal', () => mine().length > count)
  await at.page.evaluate(() => {
    const now = Date.now
    Date.now = () => now() + 864e5 + 1e4
  })
  await at.page.evaluate(() => dispatchEvent(new Event('online')))
  await until('an empty queue', async () => (await kept(at.page)).waiting === 0)
  isKnown = true
  await at.say('event', 'young')
  await has(at, 'young')
  assert.ok(!names(at.arrived()).includes('old'))
  await at.context.close()
}

/// Something on the way takes less than the snippet sends: less is sent. What nobody takes is given up, alone.
async function narrow(shop, run) {
  const at = await device(shop, run)
  shop.collector.refuse[run] = (events, body) => (events.some(({ name }) => name === 'bad') ? events.length > 1 && 413 || 422 : body.length > 4000 && 413)
  await at.open()
  await at.page.evaluate(() => {
    for (let i = 0; i < 20; i++) window.millrace('event', i === 7 ? 'bad' : 'good', { label: `${i}`, properties: { text: 'x'.repeat(900) } })
    window.millrace('event', 'giant', { properties: { text: 'x'.repeat(9000) } })
  })
  await until('all that passes', () => at.arrived().filter(({ name }) => name === 'good').length === 19)
  await until('an empty queue', async () => (await kept(at.page)).waiting === 0)
  assert.deepEqual(names(at.arrived()).filter((name) => name === 'bad' || name === 'giant'), [])
  // A refusal of the origin is final.
  shop.collector.refuse[run] = () => 403
  await at.say('event', 'refused')
  await until('an empty queue', async () => (await kept(at.page)).waiting === 0)
  await at.context.close()
}

async function attack(build) {
  const collector = await openCollector()
  collector.refuse = {}
  collector.answer = (events, body) => {
    const run = new URL(events[0].url).pathname.split('/')[1]
    queueMicrotask(() => (collector.posts.at(-1).from = run))
    return collector.refuse[run]?.(events, body) || 202
  }
  const attributes = Object.fromEntries(Object.entries(markups).map(([run, markup]) => [run, { before: `<div hidden>${markup}</div>` }]))
  const shop = Object.assign(await openShop(collector.url, KEY, attributes, build), { collector })
  const isIn = (of, run) => (isLong || of === build) && (!only || only.test(run))
  const together = async (most, runs) => {
    while (runs.length > 0) await Promise.all(runs.splice(0, most).map((run) => run()))
  }
  const answers = { unknown, narrow, full, neighbours }
  await together(4, Object.keys(answers).filter((run) => isIn('t.js', run)).map((run) => () => answers[run](shop, run)))
  await together(5, Object.keys(markups).filter((run) => isIn('t.js', run)).map((run) => () => clobbered(shop, run, build)))
  await together(4, Object.keys(tricks).filter((run) => isIn(build, run)).map((run) => () => bent(shop, run)))
  await together(8, Object.keys(records).filter((run) => isIn('t.core.js', run)).map((run) => () => damaged(shop, run, records[run])))
  shop.close()
  collector.close()
}

try {
  for (const build of ['t.js', 't.core.js']) await attack(build)
  // The markup itself may load nothing from elsewhere.
  assert.deepEqual(wrong.filter((text) => !/violates the following Content Security Policy/.test(text)), [], 'errors in pages')
  assert.deepEqual(thief.posts, [], 'nothing was sent elsewhere')
} finally {
  await browser.close()
  thief.close()
}
