#include <stasis/api.h>

const char *stasis_version(void)
{
    return STASIS_VERSION_STRING;
}
