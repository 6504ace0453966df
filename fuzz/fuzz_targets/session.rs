//! Whole sessions: no input makes a session panic, exceed its limits or send a malformed reply, and the steps do not
//! depend on packet boundaries. The first octet selects the kind of session.
#![no_main]

use goguerrilla::internals::smtp::TlsState;
use goguerrilla_fuzz::{Dialogue, StepOutput, split_three_ways};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, stream)) = data.split_first() else {
        return;
    };
    let tls = [TlsState::Unavailable, TlsState::Offered, TlsState::On][usize::from(kind % 3)];
    let mut first: Option<Vec<StepOutput>> = None;
    for pieces in split_three_ways(stream) {
        let mut dialogue = Dialogue::new(200, 1 << 20, tls);
        if kind / 3 % 3 > 0 {
            let proxy_address = (kind / 3 % 3 == 2).then(|| [192, 0, 2, 1].into());
            dialogue = dialogue.allow_xclient(proxy_address);
        }
        let mut seen = dialogue.receive_all(&pieces);
        dialogue.end();
        assert!(
            seen.iter()
                .all(|step| step.code() != 220 || !matches!(step, StepOutput::Reply(..)))
        );
        // Whether octets follow STARTTLS in the same read depends on the cuts, so steps from there on are not compared.
        let starttls = |step: &StepOutput| *step == StepOutput::StartTls || step.code() == 454;
        if let Some(at) = seen.iter().position(starttls) {
            seen.truncate(at);
        }
        match &first {
            None => first = Some(seen),
            Some(first) => assert_eq!(seen, *first),
        }
    }
});
