//! A real browser: Debian's Chromium without a window, which ChromeDriver controls by the WebDriver protocol
//! (https://www.w3.org/TR/webdriver2/).
//!
//! The clients that exist as crates are asynchronous; the protocol is JSON over HTTP, so this file is enough.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{TEST_TIMEOUT, command, needs_program, wait_for};

/// A browser with an empty profile; dropping it ends the browser.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// The profile, and the log of the driver.
    _folder: TempDir,
}

/// What a page is shown on.
#[derive(Clone, Copy)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub is_phone: bool,
    /// Whether the user prefers dark colors.
    pub is_dark: bool,
}

impl Browser {
    /// Starts a browser. Ends the test as ignored if Chromium or ChromeDriver is not installed.
    pub fn start() -> Browser {
        needs_program("chromium");
        needs_program("chromedriver");
        let folder = TempDir::new().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a file");
        let mut driver = command("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("ChromeDriver starts");
        let port = printed_port(&mut driver);
        let profile = format!(
            "--user-data-dir={}",
            folder.path().join("profile").display()
        );
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            &profile,
        ];
        let mut browser = Browser {
            driver,
            port,
            session: String::new(),
            _folder: folder,
        };
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let started = browser.request("POST", "/session", &capabilities);
        let id = started["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{id}");
        browser
    }

    /// Sets the size of the page and the colors that the user prefers.
    pub fn set_screen(&self, screen: Screen) {
        let size = json!({
            "width": screen.width,
            "height": screen.height,
            "deviceScaleFactor": 1,
            "mobile": screen.is_phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if screen.is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", &media);
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// Runs the body of a JavaScript function in the page and returns its value. A promise is awaited.
    pub fn run_script(&self, script: &str) -> Value {
        let call = json!({"script": script, "args": []});
        self.command("POST", "/execute/sync", &call)
    }

    /// Runs a script until it returns true.
    pub fn wait_until(&self, what: &str, script: &str) {
        wait_for(what, || {
            (self.run_script(script) == Value::Bool(true)).then_some(())
        });
    }

    /// Returns the visible text of the first element that a CSS selector matches.
    pub fn text_of(&self, selector: &str) -> String {
        let script = format!(
            "return document.querySelector({}).innerText",
            json!(selector)
        );
        self.run_script(&script)
            .as_str()
            .expect("a text")
            .to_owned()
    }

    /// Returns what the page wrote to the console since the last call: errors, warnings and violations of its policy.
    pub fn console(&self) -> Vec<String> {
        let entries = self.command("POST", "/se/log", &json!({"type": "browser"}));
        let entries = entries.as_array().expect("an array").iter();
        let line = |entry: &Value| format!("{} {}", entry["level"], entry["message"]);
        entries.map(line).collect()
    }

    /// Returns a PNG image of the visible part of the page.
    pub fn screenshot(&self) -> Vec<u8> {
        let options = json!({"format": "png", "optimizeForSpeed": false});
        let image = self.devtools("Page.captureScreenshot", &options);
        let encoded = image["data"].as_str().expect("an image");
        STANDARD.decode(encoded).expect("base64")
    }

    /// Sends a command of the DevTools protocol.
    pub fn devtools(&self, name: &str, parameters: &Value) -> Value {
        let call = json!({"cmd": name, "params": parameters});
        self.command("POST", "/goog/cdp/execute", &call)
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.request(method, &format!("{}{path}", self.session), body)
    }

    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self
            .try_request(method, path, body)
            .expect("ChromeDriver answers");
        assert_eq!(code, 200, "{method} {path}: {answer}");
        answer["value"].clone()
    }

    fn try_request(&self, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, Value)> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(TEST_TIMEOUT))?;
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        );
        socket.write_all((head + &body).as_bytes())?;
        let (code, body) = read_response(BufReader::new(socket))?;
        let value = serde_json::from_slice(&body).expect("JSON");
        Ok((code, value))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // This ends the processes of the browser; ending the driver alone would not.
        let _ = self.try_request("DELETE", &self.session, &json!({}));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Returns the status and the body of a response. ChromeDriver keeps the connection open, so the body ends by its length.
fn read_response(mut response: impl BufRead) -> std::io::Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    response.read_line(&mut line)?;
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut length = 0;
    while line.trim_end() != "" {
        line.clear();
        response.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    response.read_exact(&mut body)?;
    Ok((code.expect("three digits"), body))
}

/// Returns the port that ChromeDriver prints after its start.
fn printed_port(driver: &mut Child) -> u16 {
    let output = driver.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(output).lines();
    let port = lines.find_map(|line| {
        let line = line.expect("text");
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    port.expect("ChromeDriver prints its port")
}

/// Returns the SHA-256 hash in base64, as a Content-Security-Policy has it.
pub fn sha256_base64(octets: &[u8]) -> String {
    STANDARD.encode(digest(&SHA256, octets))
}
