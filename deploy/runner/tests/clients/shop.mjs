// Pages of a shop on loopback, and a browser to visit them. What goes wrong in a page fails the visit.
import { createReadStream } from 'node:fs'
import { createServer } from 'node:http'
import { join, normalize } from 'node:path'

const flags = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
  // A driven browser tells its pages that it is one, and posthog-js sends nothing of a bot's.
  '--disable-blink-features=AutomationControlled',
]
// A headless browser says that it is one, and would be taken for the bot that it is.
const userAgent = 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36'

/// Serves `html` at every address but those below `/node_modules/`, which are the client's published files.
export async function withShop({ chromium, root, html }, visit) {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://shop')
    if (!pathname.startsWith('/node_modules/')) {
      response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
      response.end(html)
      return
    }
    const file = createReadStream(join(root, normalize(pathname)))
    file.on('error', () => response.writeHead(404).end())
    response.setHeader('content-type', 'text/javascript')
    file.pipe(response)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const origin = `http://127.0.0.1:${server.address().port}`
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium'
  // What a page sends while it ends goes by the browser's own name, not by that of its context.
  const browser = await chromium.launch({ executablePath, args: [...flags, `--user-agent=${userAgent}`] })
  try {
    const context = await browser.newContext({
      userAgent, locale: 'de-CH', timezoneId: 'Europe/Zurich', viewport: { width: 1200, height: 800 },
      screen: { width: 1600, height: 1000 },
    })
    const page = await context.newPage()
    const wrong = []
    page.on('pageerror', (error) => wrong.push(String(error)))
    const result = await visit(page, origin)
    if (wrong.length > 0) throw new Error(wrong.join('\n'))
    return result
  } finally {
    await browser.close()
    server.closeAllConnections()
    server.close()
  }
}
