// A shop on loopback with a strict Content-Security-Policy, a gate in front of the collector that can be closed, and a
// browser to visit the shop.
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, request as ask } from 'node:http'
import { connect, createServer as listen } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { chromium } from 'playwright-core'

// A driven browser says that it is one, and would be taken for the bot that it is.
const person = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
const args = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
  // Not of a page but of the browser: what leaves with a page knows nothing of what a page was told to be.
  '--disable-blink-features=AutomationControlled', `--user-agent=${person}`, '--accept-lang=de-CH',
]
const env = { ...process.env, TZ: 'Europe/Zurich' }

const snippet = '../../../../collector/tracker/dist/'
const file = (name) => readFileSync(new URL((/^t\.|\.mjs$/.test(name) ? snippet : 'shop/') + name, import.meta.url), 'utf8')
const types = { css: 'text/css', js: 'text/javascript', mjs: 'text/javascript' }

/// `/<run>/<page>` is a page; the run says which attributes its script tag has.
export async function openShop(collector, key, attributes, build = 't.js') {
  let told
  const server = createServer((request, response) => {
    const [, run, name] = new URL(request.url, 'http://shop').pathname.split('/')
    const ending = run.split('.')[1]
    if (ending) {
      // Browsers ask for an icon, too.
      if (!types[ending]) return response.writeHead(404).end()
      response.writeHead(200, { 'content-type': types[ending] }).end(file(run))
      return
    }
    if (name === 'rules') {
      // The pages that a browser may render before anybody asks for them.
      const rules = { prerender: [{ urls: ['home', 'mug'].map((page) => `/${run}/${page}`), eagerness: 'immediate' }] }
      response.writeHead(200, { 'content-type': 'application/speculationrules+json' }).end(JSON.stringify(rules))
      return
    }
    if (name === 'told') {
      text(request).then((said) => (told = JSON.parse(said), response.writeHead(204).end()))
      return
    }
    const title = `${name} of ${run}`
    const more = run === 'ahead' ? '<script src="/ahead.js"></script>' : ''
    const own = attributes[run] ?? {}
    const values = { title, more, before: own.before ?? '', script: own.script ?? `${collector}/${own.build ?? build}`, attributes: `data-key="${own.key ?? key}" ${own.tag ?? ''}` }
    response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      ...(name === 'door' && { 'speculation-rules': `"/${run}/rules"` }),
      'content-security-policy': `default-src 'none'; script-src 'self' ${collector}; connect-src 'self' ${collector}; style-src 'self'; ` +
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    })
    response.end(file('page.html').replace(/\{(\w+)\}/g, (_, name) => values[name]))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    /// What a page has said that nobody drives.
    told: () => told,
    close: () => (server.closeAllConnections(), server.close()),
  }
}

/// In a collector's place, where a test wants to see what is sent or to choose the answer: `answer(events)` says a status.
export async function openCollector() {
  const collector = { posts: [], events: [], answer: () => 202 }
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://collector')
    if (request.method === 'GET') return response.writeHead(200, { 'content-type': 'text/javascript' }).end(file(pathname.slice(1)))
    const body = await text(request)
    let events
    try {
      ({ events } = JSON.parse(body))
    } catch {}
    const status = events ? collector.answer(events, body) : 400
    collector.posts.push({ status, at: Date.now(), bytes: body.length, names: events?.map(({ name, type }) => name ?? type), url: request.url })
    // What left with a page is sent again by the next one, and counts once.
    const ids = new Set(collector.events.map(({ event_id }) => event_id))
    if (status === 202) collector.events.push(...events.filter(({ event_id }) => !ids.has(event_id)))
    response.writeHead(status, { 'access-control-allow-origin': '*' }).end('{}')
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  collector.url = `http://127.0.0.1:${server.address().port}`
  collector.close = () => (server.closeAllConnections(), server.close())
  return collector
}

/// A proxy before a collector. What `isMuch(events, body)` says of a post is answered 413, as nginx does with more than its
/// `client_max_body_size`, and the page may read that; the rest goes on.
export async function openProxy(target) {
  const proxy = { posts: [], isMuch: () => false }
  const [host, port] = target.split(':')
  const server = createServer(async (request, response) => {
    const { method, url: path, headers } = request
    // A page that is closed may stop in the middle.
    const body = await text(request).catch(() => undefined)
    if (body === undefined) return
    const post = {}
    if (method === 'POST') {
      const { events } = JSON.parse(body)
      Object.assign(post, {
        names: events.map(({ name, type }) => name ?? type),
        labels: events.filter(({ name }) => name === 'numbered').map(({ label }) => label),
        events_length: JSON.stringify(events).length,
      })
      proxy.posts.push(post)
      if (proxy.isMuch(events, body)) post.status = 413
      if (post.status) return response.writeHead(post.status, { 'access-control-allow-origin': '*' }).end()
    }
    const upstream = ask({ host, port, method, path, headers }, (answer) => {
      post.status = answer.statusCode
      answer.pipe(response.writeHead(answer.statusCode, answer.headers))
    })
    upstream.on('error', () => response.destroy()).end(body)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  proxy.url = `http://127.0.0.1:${server.address().port}`
  proxy.close = () => (server.closeAllConnections(), server.close())
  return proxy
}

/// What stands between the shop's visitors and a collector. Closed, nothing listens there.
export async function openGate(target) {
  let sockets = new Set()
  const server = listen((client) => {
    const [host, port] = target.split(':')
    const upstream = connect(port, host)
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      sockets.add(from)
      from.on('close', () => (sockets.delete(from), to.destroy()))
      from.on('error', () => to.destroy())
      from.pipe(to)
    }
  })
  const open = (at) => new Promise((resolve) => server.listen(at, '127.0.0.1', resolve))
  await open(0)
  const at = server.address().port
  return {
    url: `http://127.0.0.1:${at}`,
    open: () => open(at),
    /// Whom those meet who come from now on.
    lead: (to) => (target = to),
    close: () => new Promise((resolve) => {
      server.close(resolve)
      for (const socket of sockets) socket.destroy()
      sockets = new Set()
    }),
  }
}

export const launch = (more = []) => chromium.launch({
  executablePath, args: [...args, ...more], env, ignoreDefaultArgs: ['--disable-back-forward-cache'],
})

/// A browser that nobody drives, at this address: a driven one renders nothing ahead.
export function release(url) {
  const profile = mkdtempSync(join(tmpdir(), 'visitor-'))
  const child = spawn(executablePath, [...args, `--user-data-dir=${profile}`, url], { env, stdio: 'ignore' })
  const ended = new Promise((resolve) => child.on('exit', resolve))
  process.on('exit', () => child.kill())
  return {
    async close() {
      child.kill()
      await ended
      // Its helpers end after it.
      await until('no more files', () => {
        try {
          rmSync(profile, { recursive: true, force: true })
          return true
        } catch {}
      })
    },
  }
}

/// A visitor with a device of their own. What goes wrong in their pages is collected in `wrong`.
export async function arrive(browser, wrong, more = {}) {
  const context = await browser.newContext({
    viewport: { width: 1200, height: 800 }, screen: { width: 1600, height: 1000 }, ...more,
  })
  context.setDefaultTimeout(60_000)
  context.on('weberror', (error) => wrong.push(`${error.error()}`))
  // That a collector which is away cannot be reached the browser itself says.
  context.on('console', (message) => message.type() === 'error' && !/Failed to load resource/.test(message.text()) && wrong.push(message.text()))
  return context
}

/// A window between whose tabs people switch. The pages of `arrive` are always visible.
export async function openWindow(browser) {
  const devtools = await browser.newBrowserCDPSession()
  const { browserContextId } = await devtools.send('Target.createBrowserContext')
  const asked = new Map()
  devtools.on('Target.receivedMessageFromTarget', ({ message }) => {
    const { id, result, error } = JSON.parse(message)
    asked.get(id)?.(result ?? error)
  })
  let last = 0
  const ask = (sessionId, method, params) => new Promise((resolve, reject) => {
    asked.set(++last, resolve)
    devtools.send('Target.sendMessageToTarget', { sessionId, message: JSON.stringify({ id: last, method, params }) }).catch(reject)
  })
  return {
    /// A tab of the window; in the background, or in front of all others.
    async open(url, background = false) {
      const { targetId } = await devtools.send('Target.createTarget', { url, browserContextId, background })
      const { sessionId } = await devtools.send('Target.attachToTarget', { targetId })
      return {
        async evaluate(f) {
          const { result, exceptionDetails } = await ask(sessionId, 'Runtime.evaluate', { expression: `(${f})()`, returnByValue: true })
          if (!result || exceptionDetails) throw new Error(`${f}: ${JSON.stringify(exceptionDetails)}`)
          return result.value
        },
        show: () => devtools.send('Target.activateTarget', { targetId }),
        close: () => devtools.send('Target.closeTarget', { targetId }),
      }
    },
    close: () => devtools.send('Target.disposeBrowserContext', { browserContextId }),
  }
}

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

/// Waits until something holds.
export async function until(what, holds) {
  const deadline = Date.now() + (+process.env.PATIENCE_MS || 180_000)
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`in vain waited for: ${what}`)
    await pause(20)
  }
}

/// What the page's storage holds: who the visitor is, all that is kept of who it is, and how many events wait.
export const kept = (page) => page.evaluate(() => {
  const names = Object.keys(localStorage).filter((name) => name.startsWith('mr.'))
  const own = names.find((name) => !name.slice(3).includes('.'))
  return { visitor: own && JSON.parse(localStorage[own]).visitor_id, session: own && JSON.parse(localStorage[own]).session_id, person: own && localStorage[own], waiting: names.filter((name) => name !== own).length }
})
