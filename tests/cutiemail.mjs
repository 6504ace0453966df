// Runs the public conformance suite cutiemail against a server that the test starts; docs/testing.md says how and with which result.
//
//     tsx tests/cutiemail.mjs SUITE PROGRAM [plain]     SUITE is a checkout of the suite, PROGRAM our program
//
// Starts the program in a temporary folder, with TLS, and gives the suite what its own command line cannot: the stored
// mails, which the suite compares with what it sent. `plain` leaves that out, as `src/cli.ts run` does.

import { execFileSync, spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const [suite, program, mode] = process.argv.slice(2);
if (suite === undefined || program === undefined || ![undefined, 'plain'].includes(mode)) {
  console.error('usage: tsx tests/cutiemail.mjs SUITE PROGRAM [plain]');
  process.exit(2);
}
const part = (name) => import(join(resolve(suite), 'src', name));
const { ALL_CASES } = await part('corpus/index.ts');
const { runSuite } = await part('conformance/runner.ts');
const { explain, isFinding } = await part('conformance/outcome.ts');

const folder = mkdtempSync(join(tmpdir(), 'cutiemail-'));
const port = await freePort();
// The longest name of a domain that a configuration can have is 253 octets.
const longDomain = [63, 63, 63, 59, 1].map((length) => 'd'.repeat(length)).join('.');
writeFileSync(join(folder, 'goguerrilla.conf'), JSON.stringify({
  GSTMP_LISTEN_INTERFACE: `127.0.0.1:${port}`,
  GSMTP_HOST_NAME: 'mx.ours.test',
  GM_PRIMARY_MAIL_HOST: 'ours.test',
  GM_ALLOWED_HOSTS: `ours.test,${longDomain}`,
  GSMTP_PUB_KEY: 'cert.pem',
  GSMTP_PRV_KEY: 'key.pem',
}));
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
  '-subj', '/CN=mx.ours.test', '-keyout', 'key.pem', '-out', 'cert.pem'], { cwd: folder, stdio: 'ignore' });
const log = openSync(join(folder, 'log'), 'w');
const server = spawn(resolve(program), ['-config=goguerrilla.conf'], { cwd: folder, stdio: ['ignore', log, log] });
closeSync(log);

/** The stored mails as the suite's view of what was delivered. */
class StoredMails {
  #mails = new Map();

  get received() {
    const rows = JSON.parse(run('list', '--json', '--limit=100000'));
    for (const row of rows.reverse()) {
      const known = this.#mails.get(row.hash);
      if (known === undefined) {
        this.#mails.set(row.hash, { from: row.from, recipients: [row.recipient], data: run('show', row.hash) });
      } else if (!known.recipients.includes(row.recipient)) {
        known.recipients.push(row.recipient);
      }
    }
    return [...this.#mails.values()];
  }

  /** A mail is stored before its 250 is sent, so that nothing has to be awaited. */
  async waitFor() {
    return this.received;
  }
}

let status = 1;
try {
  await serverListens();
  const results = await runSuite(ALL_CASES, {
    connect: { host: '127.0.0.1', port, tls: 'none' },
    fixture: {
      source: 'operator-declared',
      clientDomain: 'conformance-suite.invalid',
      validRecipient: 'user@ours.test',
      rejectedRecipient: 'user@foreign.test',
      nonRelayDomain: 'foreign.test',
      postmaster: 'postmaster@ours.test',
      longLocalPartRecipient: `${'u'.repeat(64)}@ours.test`,
      longDomainRecipient: `u@${longDomain}`,
    },
    ...(mode === 'plain' ? {} : { sink: new StoredMails() }),
  });
  const count = (outcome) => results.filter((result) => result.outcome === outcome).length;
  for (const outcome of ['conformant', 'non-conformant', 'permitted-latitude', 'inconclusive']) {
    console.log(`${outcome}: ${count(outcome)}`);
  }
  for (const result of results.filter((result) => result.outcome === 'inconclusive')) {
    console.log(`inconclusive: ${result.testId}: ${result.judgement.reason}`);
  }
  const findings = results.filter((result) => isFinding(result.outcome));
  findings.forEach((finding) => console.log(explain(finding)));
  status = findings.length === 0 ? 0 : 1;
} finally {
  server.kill();
  rmSync(folder, { recursive: true });
}
process.exit(status);

function run(...words) {
  return execFileSync(resolve(program), [...words, '-config=goguerrilla.conf'], { cwd: folder });
}

async function freePort() {
  const listener = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => listener.once('listening', done));
  const { port } = listener.address();
  await new Promise((done) => listener.close(done));
  return port;
}

async function serverListens() {
  for (let attempt = 0; attempt < 200; attempt++) {
    if (readFileSync(join(folder, 'log'), 'utf8').includes(' listening ')) return;
    if (server.exitCode !== null) break;
    await sleep(100);
  }
  throw new Error(`the server does not listen: ${readFileSync(join(folder, 'log'), 'utf8')}`);
}
