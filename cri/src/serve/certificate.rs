//! The names in a client's certificate: the subject's common names and the DNS names.
//!
//! Owns the reading of names only: that the certificate is one of the authority's was found out in the handshake, and the library that did so gives the subject as
//! it stands there. What can't be read is no name, so it opens nothing.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// `id-at-commonName` (2.5.4.3), in DER.
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 6;
/// `UTF8String`, `PrintableString` and `IA5String`: those whose bytes are UTF-8. The others are not issued any more (RFC 5280, 4.1.2.4).
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// A certificate's names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Names {
    /// Compared as they are.
    pub(super) common: Vec<String>,
    /// Compared without regard to upper and lower case.
    pub(super) dns: Vec<String>,
}

impl Names {
    /// Of this certificate; none of one that is none.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let Ok(read) = EndEntityCert::try_from(certificate) else { return Self::default() };
        let dns = read.valid_dns_names().map(str::to_owned).collect();
        Self { common: common_names(read.subject()), dns }
    }

    /// Whether one of them is this.
    pub(super) fn has(&self, name: &str) -> bool {
        self.common.iter().any(|own| own == name)
            || self.dns.iter().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// For messages.
    pub(super) fn all(&self) -> String {
        let names: Vec<&str> = self.common.iter().chain(&self.dns).map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// One element of DER: its tag, what is in it, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            // More than four bytes are longer than any certificate.
            let length = (1..=4).contains(&bytes.len()).then_some(bytes)?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The elements that follow each other, up to the first that is none.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (tag, content, rest) = element(der)?;
        der = rest;
        Some((tag, content))
    })
}

/// A subject is a sequence of sets of pairs: a type and its value.
fn common_names(subject: &[u8]) -> Vec<String> {
    let sets = elements(subject).filter(|(tag, _)| *tag == SET);
    let pairs = sets.flat_map(|(_, set)| elements(set)).filter(|(tag, _)| *tag == SEQUENCE);
    let common = pairs.filter_map(|(_, pair)| {
        let (kind, name, rest) = element(pair)?;
        let (text, value, _) = element(rest)?;
        let is_name = kind == OBJECT_IDENTIFIER && name == COMMON_NAME && TEXTS.contains(&text);
        is_name.then(|| String::from_utf8(value.to_vec()).ok()).flatten()
    });
    common.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate(common: &str, dns: &[&str]) -> CertificateDer<'static> {
        let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(dns).unwrap();
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::OrganizationName, "kubelet");
        subject.push(rcgen::DnType::CommonName, common);
        params.distinguished_name = subject;
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    #[test]
    fn the_subjects_common_name_and_the_dns_names_are_read_and_nothing_else() {
        let names = Names::of(&certificate("Jürgen Müller", &["ops.example", "10.0.0.1"]));
        assert_eq!(names.common, ["Jürgen Müller"]);
        assert_eq!(names.dns, ["ops.example"]);
        assert!(names.has("Jürgen Müller") && names.has("OPS.example"));
        // The organization is no name, and a common name is not compared loosely.
        for other in ["kubelet", "jürgen müller", "example", "10.0.0.1", ""] {
            assert!(!names.has(other), "{other}");
        }
        // Longer than one byte of length can tell.
        let long = "x".repeat(200);
        assert_eq!(Names::of(&certificate(&long, &[])).common, [long]);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            common_names(&bytes);
            Names::of(&CertificateDer::from(bytes));
        }

        #[test]
        fn a_certificate_that_is_cut_or_changed_makes_no_name_of_its_own(at in 0..400_usize, to in any::<u8>()) {
            let mut bytes = certificate("kubelet", &[]).to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            Names::of(&CertificateDer::from(bytes.clone()));
            bytes.truncate(at % bytes.len());
            prop_assert_eq!(Names::of(&CertificateDer::from(bytes)), Names::default());
        }
    }
}
