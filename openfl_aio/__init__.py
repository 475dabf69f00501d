"""openfl_aio: the asyncio-native successor of OpenFL 1.6."""
