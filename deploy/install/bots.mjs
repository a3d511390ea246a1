#!/usr/bin/env node
// Rewrites the collector's lists of bots from their packages, the same bytes from the same versions:
//
//   bot_words.tsv, bot_names.tsv      what marks a bot (isbot), and whose it is (crawler-user-agents)
//   tests/crawlers.txt                user agents of the second
//   tests/crawlers_unseen.txt         every third of crawlerdetect's, which build nothing
//   tests/browsers.txt                every 200th of its devices that isbot takes for people
//
// A version is an argument: `make data ARGS=isbot@5.2.3`. It needs npm and pip.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const DATA = new URL("../../collector/src/enrich/data/", import.meta.url).pathname;

// Look-around, which Rust's expressions lack: the mark without it, and the brands in which it stands, which go first.
const WITHOUT_LOOK_AROUND = {
    "(?:^|[^g])news(?!sapphire)": ["news", "gnews", "newssapphire"],
    "(?<! channel/|google/)google(?!(?:wv|app|/google| pixel))":
        ["google", " channel/google", "google/google", "google(?:wv|app| pixel)"],
    "(?<! cu)bots?(?:\\b|_)": ["bots?(?:\\b|_)", " cubot"],
    "(?<!cam)scan": ["scan", "camscan"],
    "(?<!lib)http": ["http", "libhttp"],
    "java(?!;)": ["java", "java;"],
};

// Telephones that are called so: `POWER BOT Build/…`.
const OWN_BRANDS = ["\\bbot(?: \\w+)? build/"];

// Who leaves an address of its own is no browser.
const OWN_WORDS = [["sure", "other", "\\+https?:"]];

// Words of every day, which apps of people carry too; and what says nothing but a shape. In an app they mark nobody.
const HINTS = new RegExp(
    "^\\W*(?:news|google|http|scan|\\.com|advisor|agent|analyzer|audit|capture|catch|check|checker|classifier|" +
    "convertify|detect|discovery|download|feed|grab|insight|inspect|java|library|measure|node|optimize|parser|" +
    "perl|proxy|radar|read|reed|rank|rest|rss|server|splash|time|tools|track|url|active|custom|email|client|" +
    "yahoo|yandex|supercleaner|torrent|readable|sparkler)");

const KINDS = [
    ["library", /^\W*(?:python|php|java|perl|node|wget|libhttp|http|rest|apache|jetty|client|postman|library|azure)/],
    ["monitor", /check|monitor|statuscake|pingdom|24x7|synthetic|speedcurve|pagespeed|lighthouse|dareboost|rigor|radar|ptst|iplabel|neustar|blackbox|dejaclick|watchtowr/],
    ["search", /search|daum|sogou|yandex|^\^yahoo|google|teoma/],
    ["preview", /preview|whatsapp|snapchat|facebook|discourse/],
    ["ai_training", /^\^openai/],
    ["ai_assistant", /claude-code|cursor|manus-user/],
    ["headless", /headless|phantomjs|selenium|playwright|cypress|splash/],
];

// What the tags of crawler-user-agents do not tell: which of the AI's fetch for somebody who asks now, and which for an index.
const ASSISTANTS = /-User\b|PerplexityUser|DuckAssist|Deep-Research|NotebookLM|kagi-fetcher|PhindBot|TavilyBot|ShapBot|Devin|linkReader|meta-externalfetcher|Google-Agent|GoogleAgent|AgentCore|BuyForMe|opencode|Gemini-CLI|Firecrawl|LinerBot/i;
const TAGS = [
    ["ai-crawler", "ai_training"],
    ["monitoring", "monitor"],
    ["social-preview", "preview"],
    ["http-library", "library"],
    ["browser-automation", "headless"],
];

const work = mkdtempSync(join(tmpdir(), "bots-"));
try {
    const versions = new Map(process.argv.slice(2).map((argument) => argument.split(/[@=]+/)));
    const crawlers = npm("crawler-user-agents");
    const isbot = npm("isbot");
    const marks = await import(join(isbot.path, "index.mjs"));
    writeFileSync(join(DATA, "bot_words.tsv"), `# isbot ${isbot.version}\n` + words(marks.list).join("\n") + "\n");
    const list = JSON.parse(readFileSync(join(crawlers.path, "crawler-user-agents.json"), "utf8"));
    writeFileSync(join(DATA, "bot_names.tsv"), `# crawler-user-agents ${crawlers.version}\n` + names(list).join("\n") + "\n");
    const instances = list.flatMap((crawler) => crawler.instances);
    writeTest("crawlers.txt", `crawler-user-agents ${crawlers.version}`, instances);
    const unseen = pip("crawlerdetect");
    const agents = (name) => readFileSync(join(unseen.path, "tests/fixtures/user_agent", name), "utf8").split("\n");
    const source = `crawlerdetect ${unseen.version}`;
    writeTest("crawlers_unseen.txt", source, every(3, agents("crawlers.txt")));
    writeTest("browsers.txt", source, every(200, agents("devices.txt").filter((agent) => !marks.isbot(agent))));

    function npm(name) {
        const version = versions.get(name) ?? "latest";
        const [packed] = JSON.parse(run("npm", "pack", "--json", `${name}@${version}`));
        return unpack(packed.filename, "package", packed.version);
    }

    function pip(name) {
        const version = versions.has(name) ? `==${versions.get(name)}` : "";
        run("pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", `${name}${version}`);
        const file = readdirSync(work).find((file) => file.startsWith(`${name}-`) && file.endsWith(".tar.gz"));
        const folder = file.replace(".tar.gz", "");
        return unpack(file, folder, folder.slice(name.length + 1));
    }

    function unpack(file, folder, version) {
        run("tar", "xzf", file);
        const path = join(work, version + folder);
        run("mv", folder, path);
        return { path, version };
    }

    function run(program, ...words) {
        return execFileSync(program, words, { cwd: work, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
    }
} finally {
    rmSync(work, { recursive: true });
}

// `not` a mark, `sure` or a `hint` only; its kind; the expression. What looks at a whole name goes last.
function words(list) {
    const brands = [...OWN_BRANDS];
    const rows = list.map((pattern) => {
        let [mark, ...exceptions] = WITHOUT_LOOK_AROUND[pattern] ?? [pattern];
        if (/\(\?[<!=]/.test(mark)) throw new Error(`give ${pattern} a form without look-around`);
        brands.push(...exceptions);
        // `[\d-.]` is no range.
        mark = mark.replace(/(\\[wds])-(?=[^\]])/g, "$1\\-");
        const literal = mark.replace(/\\[a-zA-Z]|mozilla|\[[^\]]*\]|compatible|\(\?:/g, " ");
        const isShape = !/[a-z]{2}/.test(literal);
        const kind = isShape ? "library" : (KINDS.find(([, of]) => of.test(mark.replaceAll("\\b", ""))) ?? ["other"])[0];
        return [isShape ? "shape" : HINTS.test(mark.replaceAll(/\\[bsw]/g, "").replace("^", "")) ? "hint" : "sure", kind, mark];
    });
    rows.push(...OWN_WORDS);
    const order = ["sure", "hint", "shape"];
    rows.sort((one, other) => order.indexOf(one[0]) - order.indexOf(other[0]));
    return [...brands.map((brand) => ["not", "other", brand]), ...rows].map((row) => row.join("\t"));
}

// The kind and the name of each crawler, and what stands for it: a text (`=`), or an expression (`~`). The longest is first:
// the most exact is meant.
function names(list) {
    const rows = list.map(({ pattern, instances = [], tags = [] }) => {
        const name = nameOf(pattern, instances);
        let [, kind] = TAGS.find(([tag]) => tags.includes(tag)) ?? [null, "other"];
        if (tags.includes("search-engine")) kind = "search";
        if (ASSISTANTS.test(name) && (tags.includes("ai-crawler") || kind === "headless")) kind = "ai_assistant";
        if (/SearchBot/.test(name) && kind === "ai_training") kind = "search";
        const text = plainOf(pattern);
        return [kind, name, text === null ? `~${pattern}` : `=${text}`];
    });
    rows.sort((one, other) => other[2].length - one[2].length || (one[2] < other[2] ? -1 : 1));
    return rows.map((row) => row.join("\t"));
}

// An expression that is a text alone.
function plainOf(pattern) {
    return /[[\](){}|*+?^$\\]/.test(pattern.replace(/\\\W/g, "")) ? null : pattern.replace(/\\(\W)/g, "$1");
}

function nameOf(pattern, instances) {
    const bare = pattern.replace(/^\^|\$$/g, "");
    const plain = bare.replace(/\\(\W)/g, "$1");
    const isPlain = plainOf(bare) !== null;
    // Of several spellings the most frequent with a capital.
    const matches = instances.map((agent) => agent.match(new RegExp(pattern))?.[0]).filter(Boolean);
    const capital = matches.filter((text) => /^\P{L}*\p{Lu}/u.test(text));
    const often = (text) => matches.filter((other) => other === text).length;
    const [most] = (capital.length ? capital : matches).sort((one, other) => often(other) - often(one));
    const found = isPlain ? plain : (most ?? plain);
    return found.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}.!]+$/gu, "").slice(0, 64);
}

function every(nth, agents) {
    return agents.filter((agent) => agent.trim()).filter((_, index) => index % nth === 0);
}

function writeTest(name, source, agents) {
    // One that names a registry of packages is left out, as everywhere here.
    const lines = [...new Set(agents.filter((agent) => !/[\r\n]|pypi|npmjs/.test(agent)))].sort();
    writeFileSync(join(DATA, "tests", name), `# ${source}\n${lines.join("\n")}\n`);
}
