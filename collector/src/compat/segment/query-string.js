// What the address of a page tells @segment/analytics-next to do: `ajs_event` with `ajs_prop_…`, `ajs_uid` with
// `ajs_trait_…`, `ajs_aid`. It asks for this part where the address has one of them.
// A part of its build is found by numbers: those of its versions up to 1.72, and of later ones.
(self.webpackChunk_segment_analytics_next = self.webpackChunk_segment_analytics_next || []).push([[96, 538], {}, (build) => {
  function queryString(analytics, query) {
    const said = Object.fromEntries(new URL(query, location.href).searchParams)
    const beginning = (prefix) => Object.fromEntries(
      Object.keys(said).filter((name) => name.startsWith(prefix)).map((name) => [name.slice(prefix.length), said[name]]),
    )
    // Patterns of ids that the page takes from addresses.
    const { aid = /./, uid = /./ } = Object(analytics.options.useQueryString)
    if (said.ajs_aid && aid.test(said.ajs_aid)) analytics.setAnonymousId(said.ajs_aid)
    const calls = []
    if (said.ajs_uid && uid.test(said.ajs_uid)) calls.push(analytics.identify(said.ajs_uid, beginning('ajs_trait_')))
    if (said.ajs_event) calls.push(analytics.track(said.ajs_event, beginning('ajs_prop_')))
    return Promise.all(calls)
  }

  for (const number of [7473, 6346]) build.m[number] ??= (module) => (module.exports = { queryString })
}])
