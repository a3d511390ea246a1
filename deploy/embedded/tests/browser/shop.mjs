// A shop on loopback with a strict Content-Security-Policy, a gate in front of the collector that can be closed, and a
// browser to visit the shop.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { connect, createServer as listen } from 'node:net'
import { chromium } from 'playwright-core'

const flags = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
]
// A driven browser says that it is one, and would be taken for the bot that it is.
const person = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'

const file = (name) => readFileSync(new URL(`shop/${name}`, import.meta.url), 'utf8')
const types = { css: 'text/css', js: 'text/javascript' }

/// `/<run>/<page>` is a page; the run says which attributes its script tag has.
export async function openShop(collector, key, attributes, build = 't.js') {
  const server = createServer((request, response) => {
    const [, run, name] = new URL(request.url, 'http://shop').pathname.split('/')
    const ending = run.split('.')[1]
    if (ending) {
      response.writeHead(200, { 'content-type': types[ending] }).end(file(run))
      return
    }
    const title = `${name} of ${run}`
    const values = { title, script: `${collector}/${attributes[run]?.build ?? build}`, attributes: `data-key="${attributes[run]?.key ?? key}" ${attributes[run]?.tag ?? ''}` }
    response.writeHead(200, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': `default-src 'none'; script-src 'self' ${collector}; connect-src ${collector}; style-src 'self'; ` +
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    })
    response.end(file('page.html').replace(/\{(\w+)\}/g, (_, name) => values[name]))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close: () => (server.closeAllConnections(), server.close()),
  }
}

/// What stands between the shop's visitors and the collector. Closed, nothing listens there.
export async function openGate(target) {
  const [host, port] = target.split(':')
  let sockets = new Set()
  const server = listen((client) => {
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
    close: () => new Promise((resolve) => {
      server.close(resolve)
      for (const socket of sockets) socket.destroy()
      sockets = new Set()
    }),
  }
}

export function launch() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    // Not of a page but of the browser: what leaves with a page knows nothing of what a page was told to be.
    args: [...flags, '--disable-blink-features=AutomationControlled', `--user-agent=${person}`, '--accept-lang=de-CH'],
    env: { ...process.env, TZ: 'Europe/Zurich' },
    ignoreDefaultArgs: ['--disable-back-forward-cache'],
  })
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

/// Waits until something holds.
export async function until(what, holds) {
  const deadline = Date.now() + 60_000
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`in vain waited for: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/// What the page's storage holds: who the visitor is, and how many events wait.
export const kept = (page) => page.evaluate(() => {
  const names = Object.keys(localStorage).filter((name) => name.startsWith('mr.'))
  const own = names.find((name) => !name.slice(3).includes('.'))
  return { visitor: own && JSON.parse(localStorage[own]).visitor_id, session: own && JSON.parse(localStorage[own]).session_id, waiting: names.filter((name) => name !== own).length }
})
