//! A table of Go-Guerrilla 1.5: `check` names what it needs, and the documented statements are enough.

use testkit::mariadb::MariaDb;
use testkit::project_files::documented_block;
use testkit::{short_mail, test, wait_for, without_trace};

/// The columns of a table for the step `Sql` of Go-Guerrilla 1.5 and later.
const TABLE: &str = "CREATE TABLE new_mail (mail_id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
    message_id varchar(256) CHARACTER SET latin1 NOT NULL, `date` datetime NOT NULL,
    `from` varchar(256) CHARACTER SET latin1 NOT NULL, `to` varchar(256) CHARACTER SET latin1 NOT NULL,
    reply_to varchar(256), sender varchar(256), subject varchar(255) NOT NULL, body varchar(16) NOT NULL,
    mail longblob NOT NULL, spam_score float NOT NULL, hash char(32) CHARACTER SET latin1 NOT NULL,
    content_type varchar(64) CHARACTER SET latin1 NOT NULL, recipient varchar(255) CHARACTER SET latin1 NOT NULL,
    has_attach int(11) NOT NULL, ip_addr varbinary(16) NOT NULL, return_path varchar(255) NOT NULL,
    is_tls bit(1) NOT NULL DEFAULT b'0', KEY `to` (`to`), KEY hash (hash), KEY `date` (`date`))
    ENGINE=InnoDB DEFAULT CHARSET=utf8";

#[test]
fn table_of_go_guerrilla_1_5_takes_mail_after_the_documented_statements() {
    let database = MariaDb::start_with(&[]);
    database.sql(TABLE);
    let server = database.server(&[]);
    let deliver = || {
        let mut client = server.client();
        client
            .deliver("a@client.test", "u@ours.test", &short_mail("moved"))
            .code
    };
    assert_eq!(deliver(), 451);
    let (is_usable, findings) = server.check();
    assert!(!is_usable);
    for needed in [
        "has no column `charset`",
        "has no column `delivered`",
        "has no column `attach_info`",
        "has no column `dkim_valid`",
        "column `message_id` of `new_mail` is NOT NULL without a default",
        "column `return_path` of `new_mail` is NOT NULL without a default",
    ] {
        assert!(findings.contains(needed), "{needed}\n{findings}");
    }
    database.sql(&documented_block(
        "migrate-from-go-guerrilla.md",
        "ALTER TABLE",
    ));
    let (is_usable, findings) = server.check();
    assert!(is_usable && !findings.contains("`ip_addr`"), "{findings}");
    wait_for("the changed table to be used", || {
        (deliver() == 250).then_some(())
    });
    // A row of the old program, whose body is a zlib stream with another name.
    database.sql("UPDATE new_mail SET body = 'gzip', ip_addr = UNHEX('7F000001')");
    let mails = server.list();
    let hash = mails[0]["hash"].as_str().expect("a hash");
    assert_eq!(without_trace(&server.show(hash)), short_mail("moved"));
}
