/**
 * JSON as the page's own `toJSON` does not bend it: Prototype.js, and shop systems with it, put one on every array, and items
 * became text. One of a value's own class is heard: a decimal's. What has no JSON is null, which the collector takes as absent.
 */
/** What a text from the storage says: others write there, too, and a disk may fail. */
export const parse = (text: any): any => {
  try {
    return JSON.parse(text) || 0
  } catch {}
  return 0
}

export const json = (value: any): string =>
  Array.isArray(value)
    ? `[${[...value].map(json)}]`
    : Object(value) === value && value.toJSON == ({} as any).toJSON
      ? `{${Object.keys(value).map((key) => JSON.stringify(key) + ':' + json(value[key]))}}`
      : JSON.stringify(value instanceof Date ? +value : value) || 'null'
