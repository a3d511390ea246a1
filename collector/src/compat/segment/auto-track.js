// `trackLink` and `trackForm` of @segment/analytics-next, which asks for this part when a page first calls one of them.
// A part of its build is found by numbers: those of its versions up to 1.72, and of later ones.
(self.webpackChunk_segment_analytics_next = self.webpackChunk_segment_analytics_next || []).push([[119, 248], {}, (build) => {
  const list = (elements) => (elements instanceof Element ? [elements] : elements?.toArray?.() ?? Array.from(elements ?? []))

  // Ends when the call was sent, or when that takes too long.
  const sent = (analytics, element, event, properties, options) => {
    const of = (value) => (typeof value === 'function' ? value(element) : value)
    const waited = new Promise((resolve) => setTimeout(resolve, analytics.settings.timeout ?? 500))
    return Promise.race([analytics.track(of(event), of(properties), options ?? {}), waited]).catch(console.error)
  }

  function link(links, ...call) {
    for (const element of list(links)) {
      element.addEventListener('click', (click) => {
        const tracked = sent(this, element, ...call)
        const href = element.getAttribute('href') || element.getAttribute('xlink:href') ||
          element.querySelector('a')?.getAttribute('href')
        const staysHere = element.target === '_blank' || click.ctrlKey || click.shiftKey || click.metaKey || click.button === 1
        if (!href || staysHere) return
        click.preventDefault()
        tracked.then(() => (location.href = href))
      })
    }
    return this
  }

  function form(forms, ...call) {
    for (const element of list(forms)) {
      const submit = (event) => {
        event.preventDefault()
        sent(this, element, ...call).then(() => HTMLFormElement.prototype.submit.call(element))
      }
      // What these submit makes no event of the browser's own.
      const library = window.jQuery || window.Zepto
      if (library) library(element).on('submit', submit)
      else element.addEventListener('submit', submit)
    }
    return this
  }

  for (const number of [1956, 4875]) build.m[number] ??= (module) => (module.exports = { link, form })
}])
