// Includes this library's header.
#include <netlib.h>

#include "strings.h"
