-- Partitions by day for table new_mail of MariaDB, and a procedure that makes and drops them: see docs/operations.md.

EXECUTE IMMEDIATE CONCAT('ALTER TABLE new_mail DROP PRIMARY KEY, ADD PRIMARY KEY (mail_id, `date`)
  PARTITION BY RANGE (TO_DAYS(`date`)) (PARTITION past VALUES LESS THAN (', TO_DAYS(CURDATE()) + 1, '),
    PARTITION later VALUES LESS THAN MAXVALUE)');

DELIMITER //
CREATE PROCEDURE new_day(days_to_keep INT)
BEGIN
  FOR next IN (SELECT CURDATE() + INTERVAL seq DAY AS day FROM seq_1_to_7) DO
    IF NOT EXISTS (SELECT 1 FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE()
        AND TABLE_NAME = 'new_mail' AND PARTITION_NAME <> 'later' AND PARTITION_DESCRIPTION + 0 > TO_DAYS(next.day)) THEN
      EXECUTE IMMEDIATE CONCAT('ALTER TABLE new_mail REORGANIZE PARTITION later INTO (PARTITION ',
        DATE_FORMAT(next.day, 'p%Y%m%d'), ' VALUES LESS THAN (', TO_DAYS(next.day) + 1,
        '), PARTITION later VALUES LESS THAN MAXVALUE)');
    END IF;
  END FOR;
  FOR old IN (SELECT PARTITION_NAME AS name FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE()
      AND TABLE_NAME = 'new_mail' AND PARTITION_NAME <> 'later'
      AND PARTITION_DESCRIPTION + 0 <= TO_DAYS(CURDATE()) - days_to_keep) DO
    EXECUTE IMMEDIATE CONCAT('ALTER TABLE new_mail DROP PARTITION ', old.name);
  END FOR;
END//
DELIMITER ;
