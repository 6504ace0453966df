//! Names of charsets: those of IANA, of the Encoding Standard and of mail programs.

use encoding_rs::{Encoding, GBK};

use super::charset::Charset;
use super::single_byte;
use super::stateful_charset::StatefulCharset;
use super::unicode::UtfByteOrder;

/// Finds a charset by its name, regardless of case and punctuation; `None` if there is no decoder for it.
pub fn find(name: &[u8]) -> Option<Charset> {
    let name = name.trim_ascii();
    if name.len() > MAX_NAME_OCTETS {
        return None;
    }
    let alphanumeric = name.iter().filter(|octet| octet.is_ascii_alphanumeric());
    let mut key = String::with_capacity(name.len());
    key.extend(alphanumeric.map(|octet| char::from(octet.to_ascii_lowercase())));
    find_charset_by_key(name, &key).or_else(|| {
        // Any name may have the prefix `x-` or IANA's `cs`.
        let (_, name) = name.split_at_checked(2)?;
        let key = key.strip_prefix("cs").or_else(|| key.strip_prefix('x'))?;
        find_charset_by_key(name, key)
    })
}

fn find_charset_by_key(name: &[u8], key: &str) -> Option<Charset> {
    find_nonstandard_charset(key)
        .or_else(|| find_charset_by_standard_label(name))
        .or_else(|| find_charset_by_standard_label(key.as_bytes()))
        .or_else(|| find_charset_by_standard_label(&replace_every_matching_octet(name, b'_', b'-')))
        .or_else(|| find_charset_by_standard_label(&replace_every_matching_octet(name, b'-', b'_')))
        .or_else(|| find_charset_by_alias(key))
        .or_else(|| single_byte::decoding_table_of_charset(key).map(Charset::SingleByte))
        .or_else(|| find_iso_8859_charset(key))
        .or_else(|| find_charset_by_code_page(key))
}

fn replace_every_matching_octet(name: &[u8], mark: u8, by: u8) -> Vec<u8> {
    let octets = name.iter();
    octets.map(|o| if *o == mark { by } else { *o }).collect()
}

/// Finds a charset that has no label in the Encoding Standard, or whose label there selects a decoder unsuitable for mail.
/// `key` consists of the letters and digits of the name, in lower case.
fn find_nonstandard_charset(key: &str) -> Option<Charset> {
    Some(match key {
        "usascii" | "ascii" | "us" | "ansix341968" | "ansix341986" | "iso646us" | "iso646"
        | "iso646irv1991" | "isoir6" | "csascii" | "646" => Charset::Ascii,
        "utf16" | "csutf16" | "unicode" | "csunicode" | "ucs2" | "iso10646ucs2" => {
            Charset::Utf16(UtfByteOrder::ByMark)
        }
        "utf16le" | "unicodelittleunmarked" | "csutf16le" | "unicodefeff" | "ucs2le" => {
            Charset::Utf16(UtfByteOrder::Little)
        }
        "utf16be" | "unicodebigunmarked" | "csutf16be" | "unicodefffe" | "ucs2be" => {
            Charset::Utf16(UtfByteOrder::Big)
        }
        "utf32" | "csutf32" | "ucs4" | "csucs4" | "iso10646ucs4" => {
            Charset::Utf32(UtfByteOrder::ByMark)
        }
        "utf32le" | "csutf32le" | "ucs4le" => Charset::Utf32(UtfByteOrder::Little),
        "utf32be" | "csutf32be" | "ucs4be" => Charset::Utf32(UtfByteOrder::Big),
        "hz" | "hzgb" | "hzgb2312" | "xhzgb2312" => Charset::Stateful(StatefulCharset::Hz),
        "euctw" | "xeuctw" | "cns11643" | "xcns11643" => Charset::EucTw,
        "jis" | "jis7" | "xjis" | "csjisencoding" | "jisencoding" => {
            Charset::Stateful(StatefulCharset::Iso2022Jp)
        }
        _ if key.contains("utf7") && !key.contains("imap") => Charset::Utf7,
        _ => {
            // Java's names have a prefix, as in `x-windows-iso2022jp`.
            let (_, language) = key.split_once("iso2022")?;
            match language.get(..2)? {
                "jp" => Charset::Stateful(StatefulCharset::Iso2022Jp),
                "kr" => Charset::Stateful(StatefulCharset::Iso2022Kr),
                "cn" => Charset::Stateful(StatefulCharset::Iso2022Cn),
                _ => return None,
            }
        }
    })
}

/// Finds a charset by a common alias that is not a label of the Encoding Standard.
fn find_charset_by_alias(key: &str) -> Option<Charset> {
    let label = match key {
        "utf8n" | "utf8mb3" | "utf8mb4" | "utf8sig" | "utf8bom" | "utf8mac" | "csutf8"
        | "xutf8" | "cesu8" | "unicode20utf8" => "utf-8",
        "gb180302000" | "gb180302005" | "gb180302022" | "xgb18030" => "gb18030",
        "euccn" | "eucgb2312cn" | "xeuccn" | "gb231280" | "gb23121980" | "cngb"
        | "xmacchinesesimp" | "xmacsimpchinese" | "hpgbk" | "xgb2312" => "gbk",
        "hkscs" | "big5hkscs" | "big5hkscs1999" | "big5hkscs2001" | "big5hkscs2004"
        | "big5hkscs2008" | "big5eten" | "big5et" | "etenbig5" | "xbig5" | "big5tw"
        | "xmacchinesetrad" | "xmactradchinese" | "xbig5hkscs" => "big5",
        "euckr" | "xeuckr" | "uhc" | "xuhc" | "ksc5601" | "ksx1001" | "ksc56011987"
        | "ksc56011992" | "ksx10011992" | "cseuckrmicrosoft" | "xmackorean" | "wansung" => "euc-kr",
        "shiftjis" | "xshiftjis" | "sjiswin" | "sjis" | "shiftjisx0213" | "sjisx0213"
        | "shiftjis2004" | "shiftjisx" | "sjis2004" | "xmacjapanese" | "mskanji" | "sjisopen"
        | "windows31j" | "cswindows31j" => "shift_jis",
        "eucjp" | "xeuc" | "ujis" | "eucjpms" | "eucjpwin" | "eucjpopen" | "eucjisx0213"
        | "eucjis2004" | "eucjisx2004" | "eucjp2004" | "xeucjplinux" => "euc-jp",
        "koi8" | "koi8r" | "xkoi8r" => "koi8-r",
        "koi8u" | "xkoi8u" | "koi8ru" | "xkoi8ru" | "koi8e" => "koi8-u",
        "tis620" | "tis6200" | "tis6202529" | "tis62025290" | "tis62025291" | "tis62025330"
        | "tis62025331" | "iso885911" | "isoir166" | "xtis620" | "thai" => "windows-874",
        "8859" | "iso8859" => "iso-8859-1",
        "l7" | "isoir179" => "iso-8859-13",
        "l8" | "isoir199" | "isoceltic" => "iso-8859-14",
        "isoir203" => "iso-8859-15",
        "l10" | "isoir226" => "iso-8859-16",
        "macroman" | "xmacroman" | "xmac" | "applemacintosh" | "csmacroman" => "macintosh",
        "maccyrillic" | "macukrainian" | "maccyr" => "x-mac-cyrillic",
        _ => return None,
    };
    find_charset_by_standard_label(label.as_bytes())
}

/// Finds a part of ISO 8859 by names such as `latin1`, `8859-1` and `iso8859_1:1987`.
fn find_iso_8859_charset(key: &str) -> Option<Charset> {
    let latin = ["xlatin", "isolatin", "csisolatin", "latin"];
    let part = if let Some(number) = latin.iter().find_map(|start| key.strip_prefix(start)) {
        match number {
            "0" | "9" => 15,
            "1" | "2" | "3" | "4" => number.parse().ok()?,
            "5" => 9,
            "6" => 10,
            "7" => 13,
            "8" => 14,
            "10" => 16,
            _ => return None,
        }
    } else {
        let isos = ["xiso8859", "csiso8859", "iso8859", "8859", "isoiec8859"];
        let number = isos.iter().find_map(|start| key.strip_prefix(start))?;
        // After the part number, a name may have the year of the standard, or `e` or `i` (explicit or implicit direction of
        // Hebrew and Arabic).
        let number = number.trim_end_matches(['e', 'i']);
        let year = number.len().checked_sub(4);
        let without_year = year.and_then(|at| number.split_at_checked(at));
        match without_year {
            Some((part, year)) if year.starts_with("19") || year.starts_with("20") => part,
            _ => number,
        }
        .parse::<u8>()
        .ok()?
    };
    let label = format!("iso-8859-{part}");
    find_charset_by_standard_label(label.as_bytes())
}

/// Finds a vendor's code page by its number, as in `cp932`, `ms936`, `x-ms-cp932`, `ibm850` and `windows-1252`.
fn find_charset_by_code_page(key: &str) -> Option<Charset> {
    let number = key.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let vendor = key.strip_suffix(number)?;
    let vendor = vendor.strip_prefix("cs").unwrap_or(vendor);
    let vendor = vendor.strip_prefix('x').unwrap_or(vendor);
    if ![
        "",
        "cp",
        "ms",
        "mscp",
        "win",
        "windows",
        "ibm",
        "ccsid",
        "dos",
        "oem",
        "ansi",
        "msansi",
        "codepage",
        "microsoftcp",
        "pc",
        "pcp",
    ]
    .contains(&vendor)
    {
        return None;
    }
    // `parse` ignores leading zeros. IBM's code pages with a euro sign have leading zeros, as in `ibm00858`.
    let number: u32 = number.parse().ok()?;
    let label = match number {
        367 | 20127 => return Some(Charset::Ascii),
        819 | 28591 => "iso-8859-1",
        866 => "ibm866",
        874 | 1162 => "windows-874",
        878 | 20866 => "koi8-r",
        1168 | 21866 => "koi8-u",
        932 | 942 | 943 => "shift_jis",
        936 | 1386 | 20936 | 51936 => return Some(Charset::Encoding(GBK)),
        54936 => "gb18030",
        949 | 970 | 1363 | 51949 => "euc-kr",
        950 | 951 | 1370 | 1375 => "big5",
        20932 | 33722 | 51932 | 954 => "euc-jp",
        10000 => "macintosh",
        10007 | 10017 => "x-mac-cyrillic",
        1200 => return Some(Charset::Utf16(UtfByteOrder::Little)),
        1201 => return Some(Charset::Utf16(UtfByteOrder::Big)),
        12000 => return Some(Charset::Utf32(UtfByteOrder::Little)),
        12001 => return Some(Charset::Utf32(UtfByteOrder::Big)),
        65000 => return Some(Charset::Utf7),
        65001 | 1208 => "utf-8",
        50220..=50222 => return Some(Charset::Stateful(StatefulCharset::Iso2022Jp)),
        50225 => return Some(Charset::Stateful(StatefulCharset::Iso2022Kr)),
        50227 | 50229 => return Some(Charset::Stateful(StatefulCharset::Iso2022Cn)),
        52936 => return Some(Charset::Stateful(StatefulCharset::Hz)),
        1250..=1258 => {
            return find_charset_by_standard_label(format!("windows-{number}").as_bytes());
        }
        28592..=28606 => {
            return find_charset_by_standard_label(
                format!("iso-8859-{}", number - 28590).as_bytes(),
            );
        }
        _ => return single_byte::table_by_code_page(number).map(Charset::SingleByte),
    };
    find_charset_by_standard_label(label.as_bytes())
}

/// Finds a charset by its label in the Encoding Standard. Does not find labels of the `replacement` encoding, which
/// decodes every text to one U+FFFD.
fn find_charset_by_standard_label(label: &[u8]) -> Option<Charset> {
    Encoding::for_label_no_replacement(label).map(Charset::Encoding)
}

/// Maximum length of a charset name in octets. All known names are shorter; a longer name finds no charset.
const MAX_NAME_OCTETS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charset_names_and_aliases_are_recognized() {
        let groups: &[(&str, &[u8], &str)] = &[
            (
                "utf-8 UTF8 x-utf-8 csUTF8 utf_8 unicode-1-1-utf-8 x-unicode20utf8 cp65001 utf8mb4 utf-8-sig",
                "ü".as_bytes(),
                "ü",
            ),
            (
                "us-ascii ASCII ANSI_X3.4-1968 iso_646.irv:1991 cp367 iso-ir-6 csASCII",
                b"\xe9",
                "é",
            ),
            (
                "iso-8859-1 iso8859-1 iso_8859-1 iso_8859-1:1987 8859_1 latin-1 latin1 l1 latin_1 \
                 cp819 ibm819 isolatin1 csISOLatin1 iso-ir-100 windows-1252 cp1252 x-cp1252 \
                 ms-ansi-1252 win-1252 28591",
                b"\xe9",
                "é",
            ),
            ("iso-8859-2 latin2 latin-2 iso8859_2 cp28592", b"\xb1", "ą"),
            ("iso-8859-15 latin-9 latin9 latin0 iso885915", b"\xa4", "€"),
            ("iso-8859-16 latin10 iso-ir-226", b"\xa4", "€"),
            ("iso-8859-8-i iso-8859-8-e hebrew", b"\xe0", "א"),
            ("koi8-r koi8 cp878 cp20866 csKOI8R", b"\xc1", "а"),
            ("koi8-u koi8-ru", b"\xa4", "є"),
            (
                "windows-1251 cp1251 x-cp1251 win1251 ansi-1251",
                b"\xe0",
                "а",
            ),
            (
                "tis-620 iso-8859-11 windows-874 cp874 dos-874",
                b"\xa1",
                "ก",
            ),
            (
                "shift_jis shift-jis sjis x-sjis ms_kanji cp932 ms932 x-ms-cp932 windows-31j \
                 csWindows31J windows-932 cp943",
                b"\x87\x40",
                "①",
            ),
            (
                "euc-jp x-euc-jp eucjp ujis eucJP-ms cp51932",
                b"\xa4\xa2",
                "あ",
            ),
            (
                "iso-2022-jp iso2022jp csISO2022JP iso-2022-jp-1 iso-2022-jp-2 iso-2022-jp-3 \
                 iso-2022-jp-2004 iso-2022-jp-ms iso-2022-jp-ext x-windows-iso2022jp cp50220 cp50221 cp50222 jis7",
                b"\x1b$B$\"\x1b(B",
                "あ",
            ),
            (
                "gb2312 GB_2312-80 gbk x-gbk gb18030 cp936 ms936 windows-936 euc-cn cn-gb chinese",
                b"\xc4\xe3",
                "你",
            ),
            ("hz-gb-2312 hz HZ-GB", b"~{Dc~}", "你"),
            ("euc-tw x-euc-tw", b"\xc4\xe3", "中"),
            ("iso-2022-cn iso-2022-cn-ext", b"\x1b$)A\x0eDc\x0f", "你"),
            (
                "big5 big5-hkscs cn-big5 x-x-big5 cp950 ms950 windows-950 big5-hkscs:2004",
                b"\xa7\x41",
                "你",
            ),
            (
                "euc-kr ks_c_5601-1987 ksc5601 cp949 ms949 windows-949 uhc korean x-windows-949",
                b"\xbe\xc8",
                "안",
            ),
            (
                "iso-2022-kr csISO2022KR cp50225",
                b"\x1b$)C\x0e>H\x0f",
                "안",
            ),
            (
                "utf-7 unicode-1-1-utf-7 x-unicode-2-0-utf-7 cp65000",
                b"+AOk-",
                "é",
            ),
            ("utf-16 UCS-2 iso-10646-ucs-2", b"\xff\xfe\xe9\x00", "é"),
            ("utf-16le cp1200", b"\xe9\x00", "é"),
            ("utf-16be cp1201", b"\x00\xe9", "é"),
            ("utf-32 ucs-4 utf-32be", b"\x00\x00\x00\xe9", "é"),
            ("ibm037 cp500 ibm01140", b"\x51", "é"),
            ("ks-c-5601-1987", b"\xbe\xc8", "안"),
            ("iso_ir_101 iso_8859_2", b"\xb1", "ą"),
            ("cp437 ibm437 437 cspc437", b"\x82", "é"),
            ("cp850 ibm850 850 cp858 ibm00858", b"\x82", "é"),
            ("cp852 ibm852 dos-852", b"\x82", "é"),
            ("cp866 ibm866 csIBM866 866", b"\xa0", "а"),
            ("macintosh mac x-mac-roman macroman cp10000", b"\x8e", "é"),
            ("x-mac-cyrillic x-mac-ukrainian cp10007", b"\xe0", "а"),
            ("x-mac-ce x-mac-centraleurroman cp10029", b"\x8b", "č"),
            ("x-mac-greek x-mac-turkish", b"\x8e", "é"),
            ("viscii", b"\xe9", "é"),
        ];
        for (names, octets, want) in groups {
            for name in names.split_whitespace() {
                let charset = find(name.as_bytes());
                let text = charset.map(|charset| charset.decode(octets));
                assert_eq!(text.as_deref(), Some(*want), "{name}");
            }
        }
        assert_eq!(find(b"latin 1"), find(b"iso-8859-1"));
        for unknown in [
            "",
            "x-unknown",
            "unknown-8bit",
            "replacement",
            "utf",
            "iso",
            "9",
        ] {
            assert_eq!(find(unknown.as_bytes()), None, "{unknown}");
        }
        assert_eq!(find(&[b'a'; 1_000]), None);
    }
}
