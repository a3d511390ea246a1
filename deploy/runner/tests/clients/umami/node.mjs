// `node.mjs <host> <key>`: the quick start of @umami/node, against another host.
import { createRequire } from 'node:module'

// Its module for `import` is one for bundlers alone.
const { default: umami } = createRequire(import.meta.url)('@umami/node')

const [hostUrl, websiteId] = process.argv.slice(2)
umami.init({ websiteId, hostUrl, userAgent: 'Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0' })
const answers = [
  await umami.track({ url: '/umami-home' }),
  await umami.track({
    url: '/umami-cart', hostname: 'shop.example', title: 'Cart', language: 'de-CH', referrer: 'https://search.example/',
    screen: '1600x1000', tag: 'b', id: 'umami-node', name: 'purchase', data: { revenue: 5, currency: 'USD', order_id: 'umami-1' },
  }),
  await umami.track('umami-signup', { plan: { name: 'gold' } }),
  await umami.identify({ plan: 'umami-gold' }),
]
const said = []
for (const answer of answers) said.push({ status: answer.status, keys: Object.keys(await answer.json()) })
console.log(JSON.stringify(said))
