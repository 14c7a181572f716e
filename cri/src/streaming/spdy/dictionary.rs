//! SPDY/3's compression dictionary, by which both ends' zlib streams begin.
//!
//! The protocol gives it as 1423 bytes: words, each with its length before it, then text without any. It is kept here as the words and
//! the text, since that is what a reader can check; a test holds its checksum against the one that clients announce.

use std::sync::LazyLock;

/// The bytes, as zlib takes them.
pub(super) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split('\n') {
        // No word is longer than a byte can count.
        let length = u8::try_from(word.len()).unwrap_or(u8::MAX);
        bytes.extend_from_slice(&[0, 0, 0, length]);
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

/// The dictionary's Adler-32, as the draft gives it: what a zlib stream names its dictionary by.
pub(super) const CHECKSUM: u32 = 0xe3c6_a7c2;

const WORDS: &str = "options
head
post
put
delete
trace
accept
accept-charset
accept-encoding
accept-language
accept-ranges
age
allow
authorization
cache-control
connection
content-base
content-encoding
content-language
content-length
content-location
content-md5
content-range
content-type
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
location
max-forwards
pragma
proxy-authenticate
proxy-authorization
range
referer
retry-after
server
te
trailer
transfer-encoding
upgrade
user-agent
vary
via
warning
www-authenticate
method
get
status
200 OK
version
HTTP/1.1
url
public
set-cookie
keep-alive
origin";

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found\
    500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
