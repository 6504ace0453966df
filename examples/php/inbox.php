<?php
// A page that shows the mail of one address, as disposable-mail sites do: the list, each mail, and new mails as they arrive.
//
// It reads the configuration of goguerrilla (GOGUERRILLA_CONFIG, else /etc/goguerrilla/goguerrilla.conf) and needs PHP 8 with
// pdo_sqlite, or pdo_mysql and, for contents in Redis, the extension redis. It must run as the user of the server, see
// docs/quick-start.md. Anybody who knows an address can read its mail: that is the idea of such a site.
declare(strict_types=1);

const MAILS_IN_LIST = 50;
const MAX_MAIL_OCTETS = 64 << 20;   // an inflated mail; keep it above GSMTP_MAX_SIZE
const LIVE_SECONDS = 50;            // then the browser connects again; below usual time limits of proxies
const POLL_SECONDS = 1;             // without a feed
const MAX_PARTS = 200;              // parts of one mail
const STATE_FOLDER = '/var/lib/goguerrilla/';

set_exception_handler(function (Throwable $error): void {
    error_log((string) $error);     // the text may name files and hosts, so visitors do not see it
    http_response_code(500);
    echo 'The mail cannot be read now.';
});

/** Returns the value of a key: from the environment, the configuration file, or the default. */
function setting(string $key, string $default = ''): string
{
    static $file = null;
    if ($file === null) {
        $path = getenv('GOGUERRILLA_CONFIG') ?: '/etc/goguerrilla/goguerrilla.conf';
        $text = file_get_contents($path);
        $file = json_decode(preg_replace('/^\xef\xbb\xbf/', '', (string) $text), true, 8, JSON_THROW_ON_ERROR);
    }
    $value = getenv("GOGUERRILLA_$key") ?: ($file[$key] ?? '');
    $value = is_bool($value) ? ($value ? 'Y' : 'N') : (string) $value;
    return $value === '' && !isset($file[$key]) ? $default : $value;
}

function password(string $key): string
{
    $file = setting("{$key}_FILE");
    return $file === '' ? setting($key) : rtrim((string) file_get_contents($file), "\r\n");
}

function uses_mysql(): bool
{
    $is_mysql = setting('MYSQL_HOST') . setting('MYSQL_USER') . setting('MYSQL_DB') !== '';
    return setting('GM_STORE', $is_mysql ? 'mysql' : 'sqlite') === 'mysql';
}

/** Connects to the SQLite file, read-only, or to the first MySQL host that answers. */
function database(): PDO
{
    $options = [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_ASSOC];
    if (!uses_mysql()) {
        $file = setting('GM_SQLITE_FILE', 'goguerrilla.db');
        $file = $file[0] === '/' ? $file : STATE_FOLDER . $file;
        $options[PDO::SQLITE_ATTR_OPEN_FLAGS] = PDO::SQLITE_OPEN_READONLY;
        return new PDO("sqlite:$file", null, null, $options + [PDO::ATTR_TIMEOUT => 5]);
    }
    $options += [PDO::ATTR_TIMEOUT => 5, PDO::ATTR_EMULATE_PREPARES => false];
    if (in_array(setting('MYSQL_TLS', 'N'), ['Y', 'unverified'], true)) {
        $options[PDO::MYSQL_ATTR_SSL_CA] = setting('MYSQL_CA') ?: '/etc/ssl/certs/ca-certificates.crt';
        $options[PDO::MYSQL_ATTR_SSL_VERIFY_SERVER_CERT] = setting('MYSQL_TLS') === 'Y';
    }
    foreach (explode(',', setting('MYSQL_HOST', '127.0.0.1:3306')) as $host) {
        $host = trim($host);
        preg_match('/^\[?(.*?)\]?(?::(\d+))?$/', $host, $parts);
        $place = $host[0] === '/' ? "unix_socket=$host" : "host=$parts[1];port=" . ($parts[2] ?? 3306);
        try {
            $dsn = "mysql:$place;charset=utf8mb4;dbname=" . setting('MYSQL_DB');
            return new PDO($dsn, setting('MYSQL_USER'), password('MYSQL_PASS'), $options);
        } catch (PDOException $error) {
            $last = $error;
        }
    }
    throw $last;
}

/** Connects to Redis or a Redis Cluster; returns null if the server uses none. */
function redis_server(float $read_seconds = 3): Redis|RedisCluster|null
{
    $address = setting('REDIS_INTERFACE', '127.0.0.1:6379');
    if ($address === '') {
        return null;
    }
    $nodes = array_map('trim', explode(',', $address));
    $url = parse_url(str_contains($nodes[0], '://') ? $nodes[0] : "redis://$nodes[0]") ?: [];
    $secret = password('REDIS_PASS') ?: urldecode($url['pass'] ?? '');
    $login = array_values(array_filter([urldecode($url['user'] ?? ''), $secret], 'strlen'));
    if (count($nodes) > 1) {
        $names = array_map(fn ($node) => preg_replace('/^.*[@\/]/', '', rtrim($node, '/')), $nodes);
        return new RedisCluster(null, $names, 3, $read_seconds, false, $login ?: null);
    }
    $redis = new Redis();
    if ($nodes[0][0] === '/') {
        $redis->connect($nodes[0], 0, 3, null, 0, $read_seconds);
    } else {
        $tls = ($url['scheme'] ?? '') === 'rediss' ? 'tls://' : '';
        $options = setting('REDIS_CA') === '' ? [] : ['stream' => ['cafile' => setting('REDIS_CA')]];
        $redis->connect($tls . $url['host'], $url['port'] ?? 6379, 3, null, 0, $read_seconds, $options);
    }
    if ($login) {
        $redis->auth($login);
    }
    $number = (int) ltrim($url['path'] ?? '', '/');
    if ($number > 0) {
        $redis->select($number);
    }
    return $redis;
}

function table(): string
{
    return implode('.', array_map(fn ($name) => "`$name`", explode('.', setting('GM_MAIL_TABLE', 'new_mail'))));
}

/** Returns what column `to` holds for an address: all domains of the server share one mailbox for each local-part. */
function mailbox(string $address): string
{
    $local = strrpos($address, '@') === false ? $address : substr($address, 0, strrpos($address, '@'));
    $host = setting('GM_PRIMARY_MAIL_HOST') ?: setting('GSMTP_HOST_NAME') ?: (string) gethostname();
    return "$local@$host";
}

/** Returns the newest rows of a mailbox. */
function mails(PDO $database, string $to): array
{
    $columns = '`hash`, `date`, `from`, `to`, `recipient`, `subject`, `has_attach`';
    $limit = MAILS_IN_LIST;
    $select = $database->prepare("SELECT $columns FROM " . table() . " WHERE `to` = ? ORDER BY `mail_id` DESC LIMIT $limit");
    $select->execute([$to]);
    // A collation may treat jorg and jörg as equal.
    return array_values(array_filter($select->fetchAll(), fn ($mail) => strcasecmp((string) $mail['to'], $to) === 0));
}

/** Returns the row of a mail and its octets, or null. */
function mail_by_hash(PDO $database, string $to, string $hash): ?array
{
    $select = $database->prepare('SELECT * FROM ' . table() . ' WHERE `hash` = ?');
    $select->execute([$hash]);
    $mail = $select->fetch();
    if (!$mail || strcasecmp((string) $mail['to'], $to) !== 0) {
        return null;
    }
    $stream = $mail['body'] === 'redis' ? redis_server()?->get($hash) : $mail['mail'];
    $mail['content'] = is_string($stream) ? (string) @gzuncompress($stream, MAX_MAIL_OCTETS) : '';
    return $mail;
}

/** Splits a mail or a part into its header fields and its body. Names are in small letters; the first field of a name counts. */
function split_part(string $part): array
{
    $end = preg_match('/^\r?\n|\r?\n\r?\n/', $part, $found, PREG_OFFSET_CAPTURE) ? $found[0] : ['', strlen($part)];
    $fields = [];
    $head = preg_replace('/\r?\n[ \t]+/', ' ', substr($part, 0, $end[1]));
    foreach (preg_split('/\r?\n/', $head) as $line) {
        [$name, $value] = explode(':', $line, 2) + [1 => ''];
        $fields[strtolower(trim($name))] ??= trim($value);
    }
    return [$fields, substr($part, $end[1] + strlen($end[0]))];
}

/** Returns a parameter of a field such as Content-Type, or ''. */
function parameter(string $field, string $name): string
{
    $pattern = '/;\s*' . $name . '\*?\s*=\s*(?:"((?:[^"\\\\]|\\\\.)*)"|([^\s;]+))/i';
    if (!preg_match($pattern, $field, $found)) {
        return '';
    }
    return isset($found[2]) ? $found[2] : stripslashes($found[1]);
}

/** Returns the leaf parts of a mail in their order: media type, name and decoded octets; text is converted to UTF-8. */
function parts(string $mail, int $depth = 0, int &$count = 0): array
{
    [$fields, $body] = split_part($mail);
    $content_type = $fields['content-type'] ?? 'text/plain';
    $type = strtolower(trim(explode(';', $content_type)[0]));
    $boundary = parameter($content_type, 'boundary');
    if (str_starts_with($type, 'multipart/') && $boundary !== '' && $depth < 10) {
        $found = [];
        $pieces = preg_split('/(?:^|\r?\n)--' . preg_quote($boundary, '/') . '(?:--)?[ \t]*(?=\r?\n|$)/', $body);
        foreach (array_slice($pieces ?: [], 1) as $piece) {
            if ($count < MAX_PARTS && trim($piece) !== '') {
                array_push($found, ...parts(preg_replace('/^\r?\n/', '', $piece), $depth + 1, $count));
            }
        }
        return $found;
    }
    $count++;
    // A malformed multipart is shown as text.
    $type = str_starts_with($type, 'multipart/') ? 'text/plain' : $type;
    $body = match (strtolower($fields['content-transfer-encoding'] ?? '')) {
        'base64' => (string) base64_decode($body),
        'quoted-printable' => quoted_printable_decode($body),
        default => $body,
    };
    $disposition = $fields['content-disposition'] ?? '';
    $name = parameter($disposition, 'filename') ?: parameter($content_type, 'name');
    $is_text = in_array($type, ['text/plain', 'text/html'], true) && $name === ''
        && stripos($disposition, 'attachment') !== 0;
    return [[
        'type' => $type,
        'name' => $name,
        'is_text' => $is_text,
        'octets' => $is_text ? utf8($body, parameter($content_type, 'charset')) : $body,
    ]];
}

/** Converts text to UTF-8; octets that its charset does not have are left out. */
function utf8(string $text, string $charset): string
{
    $is_name = preg_match('/^[A-Za-z0-9_.:-]{1,40}$/', $charset);
    $converted = $is_name ? @iconv($charset, 'UTF-8//IGNORE', $text) : false;
    if ($converted === false) {
        $converted = preg_match('//u', $text) ? $text : @iconv('WINDOWS-1252', 'UTF-8//IGNORE', $text);
    }
    return $converted === false ? preg_replace('/[^\x09\x0a\x0d\x20-\x7e]/', '?', $text) : $converted;
}

function escaped(?string $text): string
{
    return htmlspecialchars((string) $text, ENT_QUOTES | ENT_SUBSTITUTE | ENT_HTML5, 'UTF-8');
}

function link_to(array $query): string
{
    return '?' . http_build_query($query);
}

/** Sends the header fields that every answer has. */
function headers(string $type, string $policy): void
{
    header("Content-Type: $type");
    header("Content-Security-Policy: $policy");
    header('X-Content-Type-Options: nosniff');
    header('Referrer-Policy: no-referrer');
    header('X-DNS-Prefetch-Control: off');
    header('Cache-Control: no-store');
}

function page(string $title, string $body, string $script = ''): void
{
    $nonce = base64_encode(random_bytes(18));
    headers('text/html; charset=utf-8', "default-src 'none'; style-src 'nonce-$nonce'; script-src 'nonce-$nonce'; "
        . "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'");
    $title = escaped($title);
    echo <<<HTML
        <!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
        <title>$title</title>
        <style nonce="$nonce">
          :root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
          padding: 0 1rem; } table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .4rem;
          border-bottom: 1px solid #8884; overflow-wrap: anywhere; } iframe { width: 100%; height: 70vh; border: 1px solid #8884;
          background: #fff; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
        </style>
        <h1>$title</h1>
        $body
        <script nonce="$nonce">$script</script></html>
        HTML;
}

function show_start_page(): void
{
    $domains = preg_grep('/^[^*@.]/', array_map('trim', explode(',', setting('GM_ALLOWED_HOSTS', '*'))));
    $domain = reset($domains) ?: substr(strrchr(mailbox(''), '@'), 1);
    $random = escaped(bin2hex(random_bytes(5)) . "@$domain");
    page('Read the mail of an address', "<form><input name=to value='$random' size=40 autofocus> <button>Read</button></form>");
}

function show_list(string $to): void
{
    $rows = '';
    foreach (mails(database(), mailbox($to)) as $mail) {
        $link = escaped(link_to(['to' => $to, 'hash' => $mail['hash']]));
        $rows .= "<tr id='m" . escaped($mail['hash']) . "'><td>" . escaped((string) $mail['date']) . '<td>'
            . escaped($mail['from']) . "<td><a href='$link'>" . (escaped($mail['subject']) ?: '(no subject)') . '</a>';
    }
    // Values of a mail reach the page as text only.
    $script = <<<'JS'
        const list = document.getElementById('mails');
        const source = new EventSource(list.dataset.live);
        source.onmessage = (event) => {
            const mail = JSON.parse(event.data);
            if (document.getElementById('m' + mail.hash)) return;
            const row = list.insertRow(0), link = document.createElement('a');
            row.id = 'm' + mail.hash;
            row.insertCell().textContent = mail.date;
            row.insertCell().textContent = mail.from;
            link.textContent = mail.subject || '(no subject)';
            link.href = '?' + new URLSearchParams({ to: list.dataset.to, hash: mail.hash });
            row.insertCell().append(link);
        };
        JS;
    $live = escaped(link_to(['to' => $to, 'live' => 1]));
    page("Mail of $to", "<table><thead><tr><th>Date<th>From<th>Subject<tbody id=mails data-to='" . escaped($to)
        . "' data-live='$live'>$rows</table><p>New mails appear here by themselves.", $script);
}

function show_mail(string $to, string $hash): void
{
    $mail = mail_by_hash(database(), mailbox($to), $hash);
    if ($mail === null) {
        http_response_code(404);
        page('No such mail', '<p>It was removed, or it is the mail of another address.');
        return;
    }
    $rows = '';
    foreach (['from' => 'From', 'recipient' => 'To', 'date' => 'Date'] as $column => $name) {
        $rows .= "<tr><th>$name<td>" . escaped((string) $mail[$column]);
    }
    $body = '';
    foreach (parts($mail['content']) as $number => $part) {
        $link = escaped(link_to(['to' => $to, 'hash' => $hash, 'part' => $number]));
        if ($part['is_text'] && $part['type'] === 'text/html') {
            $body .= "<iframe sandbox referrerpolicy=no-referrer src='$link' title='HTML of the mail'></iframe>";
        } elseif ($part['is_text']) {
            $body .= '<pre>' . escaped($part['octets']) . '</pre>';
        } else {
            $name = escaped($part['name']) ?: 'attachment';
            $body .= "<p>Attachment: <a href='$link' download>$name</a>, " . strlen($part['octets']) . ' octets';
        }
    }
    $back = escaped(link_to(['to' => $to]));
    page((string) $mail['subject'] ?: '(no subject)', "<table>$rows</table>" . ($body ?: '<p>The content has expired.')
        . "<p><a href='$back'>All mails of " . escaped($to) . '</a>');
}

/** Sends one part: HTML for the frame, in which nothing is executed and nothing is loaded, anything else as a download. */
function send_part(string $to, string $hash, int $number): void
{
    $mail = mail_by_hash(database(), mailbox($to), $hash);
    $part = $mail === null ? null : (parts($mail['content'])[$number] ?? null);
    if ($part === null) {
        http_response_code(404);
        headers('text/plain; charset=utf-8', "default-src 'none'; sandbox");
        echo 'no such part';
    } elseif ($part['is_text'] && $part['type'] === 'text/html') {
        // `sandbox` also holds if somebody opens the address outside of the frame.
        headers('text/html; charset=utf-8', "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
            . "base-uri 'none'; form-action 'none'; frame-ancestors 'self'");
        // These elements could resolve names or go to another page without any script.
        echo preg_replace('/<(\/?)(link|meta|base|object|embed|iframe|frame|portal)\b/i', '<$1x-$2', $part['octets']);
    } else {
        headers('application/octet-stream', "default-src 'none'; sandbox");
        $name = preg_replace('/[^A-Za-z0-9._-]+/', '_', $part['name']) ?: 'attachment';
        header('Content-Disposition: attachment; filename="' . substr($name, -100) . '"');
        echo $part['octets'];
    }
}

/** Sends server-sent events for new mails. The feed only says when to look. Mails are read from the table, so none is missed. */
function send_events(string $address): void
{
    headers('text/event-stream', "default-src 'none'");
    header('X-Accel-Buffering: no');
    ignore_user_abort(false);
    while (ob_get_level() > 0) {
        ob_end_flush();
    }
    $to = mailbox($address);
    $feed = setting('GM_FEED');
    $redis = uses_mysql() && !in_array($feed, ['', 'http'], true) ? redis_server(30) : null;
    // The position in the feed comes before the first look at the rows.
    $position = $redis ? (array_key_first($redis->xRevRange($feed, '+', '-', 1) ?: []) ?? '0-0') : null;
    $database = database();
    $sent = [];
    $until = time() + LIVE_SECONDS;
    echo "retry: 1000\n\n";
    do {
        foreach (array_reverse(mails($database, $to)) as $mail) {
            if (!isset($sent[$mail['hash']])) {
                $sent[$mail['hash']] = true;
                echo 'data: ' . json_encode($mail, JSON_INVALID_UTF8_SUBSTITUTE) . "\n\n";
            }
        }
        $sent = array_slice($sent, -2 * MAILS_IN_LIST, null, true);
        echo ":\n\n";   // a comment, so that PHP notices a browser that has left
        flush();
        if ($redis) {
            $position = wait_for_feed($redis, $feed, $to, $position, $until);
        } else {
            sleep(POLL_SECONDS);
        }
    } while (time() < $until && !connection_aborted());
}

/** Waits for an entry for this mailbox, at most five seconds, and returns the new position in the feed. */
function wait_for_feed(Redis|RedisCluster $redis, string $feed, string $to, string $position, int $until): string
{
    $end = min($until, time() + 5);
    while (($left = $end - time()) > 0) {
        $entries = $redis->xRead([$feed => $position], 1000, $left * 1000)[$feed] ?? [];
        foreach ($entries as $id => $entry) {
            $position = $id;
            $is_ours = strcasecmp($entry['to'] ?? '', $to) === 0;
            $end = $is_ours ? 0 : $end;
        }
    }
    return $position;
}

$to = is_string($_GET['to'] ?? null) ? trim($_GET['to']) : '';
$hash = is_string($_GET['hash'] ?? null) ? $_GET['hash'] : '';
match (true) {
    $to === '' || strlen($to) > 320 || !preg_match('//u', $to) => show_start_page(),
    isset($_GET['live']) => send_events($to),
    $hash === '' => show_list($to),
    !preg_match('/^[0-9a-f]{32}$/D', $hash) => show_mail($to, ''),
    isset($_GET['part']) => send_part($to, $hash, (int) $_GET['part']),
    default => show_mail($to, $hash),
};
