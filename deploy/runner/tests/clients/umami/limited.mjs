// `limited.mjs <host> <key>`: @umami/node, and Umami's tracker in Chromium, of a store that is at its rate.
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { answered, once } from '../crowd.mjs'
import { withShop } from '../shop.mjs'

// Its module for `import` is one for bundlers alone.
const { default: umami } = createRequire(import.meta.url)('@umami/node')

const [host, key] = process.argv.slice(2)
const html = `<!doctype html><title>Mug</title>
<script src="/node_modules/umami/src/tracker/index.js" data-website-id="${key}" data-host-url="http://${host}" data-auto-track="false"></script>`

umami.init({ websiteId: key, hostUrl: `http://${host}` })
const server = await once(host, key, async () => (await umami.track('impatient')).status)
const page = await withShop({ chromium, root: fileURLToPath(new URL('.', import.meta.url)), html }, async (page, origin) => {
  await page.goto(`${origin}/umami`)
  return once(host, key, () => answered(page, '/api/send', () => page.evaluate(() => umami.track('impatient'))))
})
console.log(JSON.stringify([server, page]))
