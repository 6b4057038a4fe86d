//! `/v1/cs/configs?search=…`: pages of configurations.
use serde_json::{Value, json};

use super::{
    Api,
    answer::{Answer, caused, failure, illegal_name, json as json_answer, with_revision},
    call::Call,
    config::summary,
    result::{self, Failed},
};
use crate::{
    nacos::names,
    service::Filter,
    types::{InvalidName, NameField, NameProblem, limits},
};

/// More on one page is refused: an answer is built in memory.
const PAGE_SIZE_MAX: usize = 10_000;
/// A longer pattern is refused: it is compared with every content.
const CONTENT_PATTERN_MAX: usize = 256;

/// A page, as it is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageOf {
    /// From 1 on.
    number: usize,
    pub(super) size: usize,
}

impl PageOf {
    pub(super) fn skip(self) -> usize {
        (self.number - 1).saturating_mul(self.size)
    }

    /// What is answered: the same in all versions.
    pub(super) fn of(self, total: usize, items: Vec<Value>) -> Value {
        json!({
            "totalCount": total,
            "pageNumber": self.number,
            "pagesAvailable": total.div_ceil(self.size),
            "pageItems": items,
        })
    }
}

pub(super) fn page_too_large() -> String {
    format!("the contents of this page have more than {} bytes; ask for a smaller pageSize", limits::PAGE_BYTES_MAX)
}

pub(super) async fn search(api: &Api, call: &Call, blur: bool) -> Answer {
    let asked = request(call, blur).and_then(|asked| Ok((asked, call.consistency(api.clients.reads)?)));
    let ((filter, page), consistency) = match asked {
        Ok(asked) => asked,
        Err(refused) => return *refused,
    };
    let by_tags = !filter.tags.is_empty();
    let read = match api.services.search(filter, page.skip(), page.size, consistency).await {
        Ok(read) => read,
        Err(err) => return failure(&err),
    };
    let listed = read.value;
    if listed.is_cut {
        return caused(&page_too_large());
    }
    let items: Vec<Value> = listed
        .items
        .iter()
        .map(|(key, record)| {
            let mut item = summary(key, record);
            // As recorded: the three ways of listing leave out different fields.
            if !blur {
                item["encryptedDataKey"] = Value::Null;
            }
            if by_tags {
                (item["md5"], item["type"]) = (Value::Null, Value::Null);
            }
            item
        })
        .collect();
    with_revision(json_answer(&page.of(listed.total, items)), read.revision)
}

/// How a version calls the parameters of a search.
pub(super) struct Asked {
    pub(super) data_id: &'static str,
    pub(super) group: &'static str,
    pub(super) namespace: &'static str,
    pub(super) tags: &'static str,
    pub(super) types: &'static str,
    /// Not in v1.
    pub(super) content: Option<&'static str>,
    /// Whether names may be patterns.
    pub(super) blur: bool,
}

impl Asked {
    pub(super) fn filter(&self, call: &Call) -> Result<Filter, Failed> {
        let text = |name| call.params.get(name).unwrap_or_default();
        if self.blur {
            check_patterns(text(self.data_id), text(self.group))?;
        } else {
            names::check(Some(text(self.data_id)), Some(text(self.group)), text(self.namespace))?;
        }
        if let Some(name) = self.content
            && text(name).len() > CONTENT_PATTERN_MAX
        {
            let why = format!("'{name}' has more than {CONTENT_PATTERN_MAX} bytes");
            return Err(Failed::refused(result::INVALID, why));
        }
        Ok(self.checked(call)?)
    }

    /// The filter, of names that were checked.
    fn checked(&self, call: &Call) -> Result<Filter, InvalidName> {
        let text = |name| call.params.get(name).unwrap_or_default();
        Ok(Filter {
            namespace: Some(names::namespace(text(self.namespace))?),
            group: text(self.group).trim().to_owned(),
            data_id: text(self.data_id).trim().to_owned(),
            blur: self.blur,
            app_name: call.params.filled("appName").unwrap_or_default().to_owned(),
            tags: list(text(self.tags)),
            types: list(text(self.types)),
            content: self.content.map(text).unwrap_or_default().to_owned(),
        })
    }

    /// The page; the first one, of this size, unless the request says otherwise.
    pub(super) fn page(&self, call: &Call, size: usize) -> Result<PageOf, Failed> {
        let number = |name: &str, unsaid: usize| -> Result<usize, Failed> {
            let Some(text) = call.params.filled(name) else { return Ok(unsaid) };
            match text.trim().parse() {
                Ok(number) if number > 0 => Ok(number),
                Ok(_) | Err(_) => {
                    let why = format!("Required parameter '{name}' should be positive integer, current is {text}");
                    Err(Failed::refused(result::INVALID, why))
                }
            }
        };
        let page = PageOf { number: number("pageNo", 1)?, size: number("pageSize", size)? };
        if page.size > PAGE_SIZE_MAX {
            return Err(Failed::refused(result::INVALID, format!("pageSize is over {PAGE_SIZE_MAX}")));
        }
        Ok(page)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
}

/// A pattern is a name with a star at either end, or shorter.
fn check_patterns(data_id: &str, group: &str) -> Result<(), InvalidName> {
    let names =
        [(NameField::DataId, data_id, limits::DATA_ID_BYTES_MAX), (NameField::Group, group, limits::GROUP_BYTES_MAX)];
    for (field, pattern, name_bytes_max) in names {
        let max = name_bytes_max + 2;
        if pattern.trim().len() > max {
            return Err(InvalidName { field, problem: NameProblem::TooLong { max }, value: String::new() });
        }
    }
    Ok(())
}

fn request(call: &Call, blur: bool) -> Result<(Filter, PageOf), Box<Answer>> {
    let (data_id, group) = (call.required("dataId")?, call.required("group")?);
    if blur {
        check_patterns(data_id, group).map_err(|err| illegal_name(&err))?;
    } else {
        call.check_names()?;
    }
    let number = |name: &str| -> Result<usize, Box<Answer>> {
        let text = call.required(name)?;
        text.parse().map_err(|_| Box::new(caused(&format!("parameter '{name}' is not a number: {text:?}"))))
    };
    let page = PageOf { number: number("pageNo")?, size: number("pageSize")? };
    if page.number == 0 || page.size == 0 {
        return Err(Box::new(caused(&format!(
            "serialize page error, dataId={data_id}, group={group};caused: pageNo and pageSize must be greater than zero"
        ))));
    }
    if page.size > PAGE_SIZE_MAX {
        return Err(Box::new(caused(&format!("pageSize is over {PAGE_SIZE_MAX}"))));
    }
    let asked = Asked {
        data_id: "dataId",
        group: "group",
        namespace: "tenant",
        tags: "config_tags",
        types: "types",
        content: None,
        blur,
    };
    let mut filter = asked.checked(call).map_err(|err| illegal_name(&err))?;
    if !blur {
        filter.types.clear();
    }
    Ok((filter, page))
}
