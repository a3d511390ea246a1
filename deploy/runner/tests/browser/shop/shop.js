const $ = (id) => document.getElementById(id)
const mug = { item_id: 'mug', item_name: 'Mug', item_category: 'Cups', price: 12.5, quantity: 2 }
const at = location.pathname.split('/').pop()
if (at === 'mug') window.millrace('view_item', { currency: 'USD', items: [{ ...mug, quantity: 1 }] })
for (const [id, event] of [['marked', 'click'], ['newsletter', 'submit']]) {
  $(id).addEventListener(event, () => ($('said').textContent += id))
}
$('alive')?.addEventListener('click', () => ($('said').textContent += '!'))
$('add')?.addEventListener('click', () => {
  $('said').textContent = 'added'
  window.millrace('add_to_cart', { currency: 'USD', value: 25, items: [mug] })
})
$('buy')?.addEventListener('click', () => {
  $('said').textContent = 'bought'
  window.millrace('begin_checkout', { currency: 'USD', items: [mug] })
  window.millrace('purchase', {
    transaction_id: location.pathname, currency: 'USD', value: 30, tax: 2, shipping: 3, items: [mug], properties: { gift: true },
  })
})
for (const link of document.querySelectorAll('a[data-view]')) {
  link.addEventListener('click', (event) => {
    event.preventDefault()
    history.pushState({}, '', link.href)
    document.title = link.textContent
    $('said').textContent = link.textContent
  })
}
for (const stay of document.querySelectorAll('[data-stay]')) {
  stay.addEventListener(stay.tagName === 'FORM' ? 'submit' : 'click', (event) => event.preventDefault())
}
