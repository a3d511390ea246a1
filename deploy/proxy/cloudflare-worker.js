// Millrace below a shop's own host: /m/t.js and /m/v1/collect, as a Cloudflare worker.
//
// Its route is shop.example/m/*, and its variable COLLECTOR the collector's address, https://collector.example.
// docs/same-origin.md says what the collector needs to know, and whom it must not believe.

export default {
  async fetch(request, env) {
    const { pathname, search } = new URL(request.url)
    // Another path would be a route's mistake.
    if (!pathname.startsWith('/m/')) return new Response('not found', { status: 404 })

    // Never `new URL(path, base)`: a path that begins with two slashes would name another host.
    const target = new URL(env.COLLECTOR)
    target.pathname = pathname.replace(/^\/m\/+/, '/')
    target.search = search

    const headers = new Headers(request.headers)
    // Instead of whatever the visitor sent under this name.
    const visitor = request.headers.get('CF-Connecting-IP')
    if (visitor === null) headers.delete('X-Forwarded-For')
    else headers.set('X-Forwarded-For', visitor)
    // The shop's cookies are none of Millrace's business.
    headers.delete('Cookie')

    const { method, body } = request
    return fetch(target, { method, headers, body, redirect: 'manual' })
  },
}
