-- Run once by the MariaDB image when its data are new: results live apart from Audience's own records.
CREATE DATABASE labels CHARACTER SET utf8mb4;
GRANT ALL ON labels.* TO 'audience'@'%';
