// Builds dist/. With --check nothing is written: types, bytes of what is committed and budgets are checked.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { minify } from 'terser'

const folder = new URL('.', import.meta.url).pathname
const outputs = [
  { entry: 'src/t.core.ts', file: 'dist/t.core.js', format: 'iife', gzip_bytes_max: 2400 },
  { entry: 'src/t.ts', file: 'dist/t.js', format: 'iife', gzip_bytes_max: 5000 },
  { entry: 'src/index.ts', file: 'dist/millrace.mjs', format: 'esm', gzip_bytes_max: 5120 },
]

async function bytes({ entry, format }) {
  const bundled = await build({
    absWorkingDir: folder, entryPoints: [entry], bundle: true, format, target: 'es2020', write: false, minify: true, legalComments: 'none',
    // A script's own bytes need no word on strictness.
    tsconfigRaw: {},
  })
  const { code } = await minify(bundled.outputFiles[0].text, {
    ecma: 2020, module: true, toplevel: true, format: { comments: false },
    // Inlining a function makes fewer bytes, and more after gzip.
    compress: { passes: 4, inline: 1, pure_getters: true },
  })
  return `${code}\n`
}

const isCheck = process.argv.includes('--check')
execFileSync(process.execPath, [`${folder}node_modules/typescript/bin/tsc`, '-p', folder], { stdio: 'inherit' })
const wrong = []
for (const output of outputs) {
  const text = await bytes(output)
  const size = gzipSync(text, { level: 9 }).length
  console.log(`${output.file}: ${text.length} bytes, ${size} gzip, at most ${output.gzip_bytes_max}`)
  if (size > output.gzip_bytes_max) wrong.push(`${output.file} takes ${size} bytes, at most ${output.gzip_bytes_max}`)
  if (!isCheck) writeFileSync(folder + output.file, text)
  else if (readFileSync(folder + output.file, 'utf8') !== text) wrong.push(`${output.file} is not what src/ builds: npm run build`)
}
if (wrong.length > 0) {
  console.error(wrong.join('\n'))
  process.exit(1)
}
