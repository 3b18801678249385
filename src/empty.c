/* libstasis.so is made of the objects of the rooms; a target needs one source of its own. */
typedef int stasis_empty_translation_unit;
