-- Partitions by day for table new_mail of MySQL or MariaDB. Run it once; afterwards GM_KEEP_DAYS or `goguerrilla prune` makes
-- the partitions of the next days and drops old ones: see docs/operations.md.

SET @partitions = CONCAT('ALTER TABLE new_mail DROP PRIMARY KEY, ADD PRIMARY KEY (mail_id, `date`)
  PARTITION BY RANGE (TO_DAYS(`date`)) (PARTITION past VALUES LESS THAN (', TO_DAYS(CURDATE()) + 1, '),
    PARTITION later VALUES LESS THAN MAXVALUE)');
PREPARE partitions FROM @partitions;
EXECUTE partitions;
DEALLOCATE PREPARE partitions;
