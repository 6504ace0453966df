//! A server with a store of its own: each mail becomes a file in the folder `mail`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use goguerrilla::config::Config;
use goguerrilla::connection::{self, ConnectionSettings};
use goguerrilla::mail::Mail;
use goguerrilla::net::listener::Listener;
use goguerrilla::net::pool::Pool;
use goguerrilla::smtp::{MemoryBudget, reply};
use goguerrilla::storage::{SaveError, SaveMail, SavedId, Writers};
use goguerrilla::{server, signals};

struct FolderStore {
    folder: PathBuf,
}

impl SaveMail for FolderStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let file = self.folder.join(mail.deliveries()[0].hash.as_str());
        let written = File::create(&file).and_then(|mut file| {
            for delivery in mail.deliveries() {
                file.write_all(mail.trace_fields(delivery).as_bytes())?;
            }
            file.write_all(mail.content())?;
            file.sync_all()?;
            File::open(&self.folder)?.sync_all()
        });
        if let Err(error) = written {
            // The client is told 451 and sends the mail again, so nothing of it may remain.
            let _ = fs::remove_file(&file);
            return Err(SaveError::Unavailable(error.to_string()));
        }
        Ok(SavedId::from(mail.deliveries()[0].hash))
    }
}

fn main() -> io::Result<()> {
    let config = Config::default();
    fs::create_dir_all("mail")?;
    let open = || -> Result<Box<dyn SaveMail>, SaveError> {
        let folder = "mail".into();
        Ok(Box::new(FolderStore { folder }))
    };
    // One thread that saves; `false`, because this store needs no columns computed in advance.
    let (saver, writers) = Writers::start(1, false, Arc::new(open))?;
    let settings = ConnectionSettings {
        session: Arc::new(server::session_settings(&config)),
        client_timeout: config.client_timeout,
        budget: MemoryBudget::new(config.max_memory_octets),
        saver,
    };
    let mut refusal = Vec::new();
    reply::R421_TOO_BUSY.write_to(&mut refusal);
    let serve = move |client: &_| connection::serve(client, &settings);
    let pool = Pool::new(config.max_clients, refusal, Box::new(serve));
    let listener = Arc::new(Listener::bind(config.listen_addresses[0], false)?);
    pool.open(&listener)?;
    println!("listening on {}", listener.address());
    // SIGTERM or Ctrl-C ends it: nobody new is accepted, and what has queued up is saved.
    let _ = signals::listen()?.recv();
    listener.close();
    pool.drain();
    writers.finish();
    Ok(())
}
