/* stasis.h - all of libstasis. */
#ifndef STASIS_H
#define STASIS_H

#include <stasis/api.h>
#include <stasis/dirty.h>
#include <stasis/error.h>
#include <stasis/field.h>
#include <stasis/kvm.h>
#include <stasis/machine.h>
#include <stasis/memory.h>
#include <stasis/snapshot.h>

#endif
